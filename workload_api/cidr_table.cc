#include "workload_api/cidr_table.h"

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
  auto next = make_ref<AllLengths>();
  if (lengths_) next->networks = lengths_->networks;
  auto found = std::ranges::find_if(next->networks,
                                    [&](const Lengths& lengths) { return lengths.network == block.network; });
  if (found == next->networks.end()) {
    next->networks.push_back({.network = block.network});
    found = std::prev(next->networks.end());
  }
  const size_t length = block.cidr.prefix_length;
  auto& counter = block.cidr.base.is_v4() ? found->v4[length] : found->v6[length];
  counter += static_cast<uint32_t>(change);
  found->blocks += static_cast<uint32_t>(change);
  if (found->blocks == 0) next->networks.erase(found);
  lengths_ = std::move(next);
}

void CidrTable::replace(const NetworkCidr& block, const Service* old, const ServicePtr& service) {
  auto next = make_ref<BlockServices>();
  next->key = {block.network, masked(block.cidr.base, block.cidr.prefix_length)};
  const Key key{next->key.network.view(), next->key.cidr};
  const auto* present = blocks_.find(key);
  if (present != nullptr) next->services = (*present)->services;
  workload_api::replace(next->services, old, service);
  if (present == nullptr && !next->services.empty()) count(next->key, +1);
  if (present != nullptr && next->services.empty()) count(next->key, -1);
  if (next->services.empty()) {
    blocks_.erase(key);
  } else {
    blocks_.put(key, std::move(next));
  }
}

}  // namespace zt::workload_api
