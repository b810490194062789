#include "workload_api/store/cidr_table.h"

namespace zt::workload_api {

Cidr CidrTable::masked(const IpAddress& ip, uint8_t length) {
  std::array<uint8_t, 16> bytes{};
  const auto from = ip.bytes();
  const size_t whole = length / 8u;
  std::copy_n(from.begin(), whole, bytes.begin());
  if (length % 8 != 0) bytes[whole] = static_cast<uint8_t>(from[whole] & (0xff00u >> (length % 8)));
  // A masked v4-mapped prefix cannot come up: IpAddress turned such addresses into IPv4.
  const auto base = IpAddress::from_bytes(std::span<const uint8_t>(bytes.data(), from.size()));
  return Cidr{*base, length};
}

const CidrTable::Lengths* CidrTable::find_lengths(std::string_view network) const {
  if (!lengths_) return nullptr;
  for (const Lengths& lengths : lengths_->networks)
    if (lengths.network.view() == network) return &lengths;
  return nullptr;
}

void CidrTable::count(const NetworkCidr& block, int change) {
  auto& networks = own(lengths_).networks;
  auto found = std::ranges::find(networks, block.network, &Lengths::network);
  if (found == networks.end()) found = networks.insert(found, {.network = block.network});
  const size_t length = block.cidr.prefix_length;
  auto& counter = block.cidr.base.is_v4() ? found->v4[length] : found->v6[length];
  counter += static_cast<uint32_t>(change);
  found->blocks += static_cast<uint32_t>(change);
  if (found->blocks == 0) networks.erase(found);
}

void CidrTable::replace(const NetworkCidr& block, const Service* old, const ServicePtr& service) {
  const NetworkCidr stored{block.network, masked(block.cidr.base, block.cidr.prefix_length)};
  const Key key{stored.network.view(), stored.cidr};
  bool empty = false;
  const bool found = blocks_.edit(key, [&](Ref<BlockServices>& list) {
    workload_api::replace(own(list).services, old, service);
    empty = list->services.empty();
  });
  if (empty) {
    blocks_.erase(key);
    count(stored, -1);
  } else if (!found && service) {
    auto list = make_ref<BlockServices>();
    list->key = stored;
    list->services.push_back(service);
    blocks_.put(key, std::move(list));
    count(stored, +1);
  }
}

}  // namespace zt::workload_api
