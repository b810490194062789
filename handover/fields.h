#pragma once
#include <openssl/x509.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/address.h"
#include "handover/wire.h"
#include "hbone/stream.h"
#include "hbone/tls/record_layer.h"
#include "hbone/tls/verified_peers.h"
#include "identity/spiffe_id.h"
#include "mesh/reason.h"

// The fields of units (unit.cc), one by one.
namespace zt::handover::fields {

inline constexpr size_t kMaxName = 4096;  // of a text: names of Kubernetes, SPIFFE ids and authorities are shorter
inline constexpr size_t kMaxHeader = 64 * 1024;
inline constexpr size_t kMaxCertificates = 32;
inline constexpr size_t kMaxCertificate = 64 * 1024;

// ---- Writing and reading are one list of fields each; `Put` and `Get` make the two from it.

struct Put {
  Writer& to;
  template <class T>
  void number(const T& value) {
    to.number(value);
  }
  void time(const std::chrono::milliseconds& value) {
    to.number(static_cast<uint32_t>(std::clamp<int64_t>(value.count(), 0, UINT32_MAX)));
  }
  void text(const std::string& value, size_t = kMaxName) { to.text(value); }
  void bytes(const std::vector<uint8_t>& value, size_t) { to.bytes(value); }
  template <class T, class Fields>
  void optional(const std::optional<T>& value, Fields fields) {
    to.optional(value, [&fields](Writer& w, const T& inside) {
      Put put{w};
      fields(put, inside);
    });
  }
  template <class T, class Fields>
  void list(const std::vector<T>& values, size_t, Fields fields) {
    to.list(values, [&fields](Writer& w, const T& inside) {
      Put put{w};
      fields(put, inside);
    });
  }
  template <class T, class Fields>
  void record(const T& value, Fields fields) {
    to.record([&](Writer& w) {
      Put put{w};
      fields(put, value);
    });
  }
};

struct Get {
  Reader& from;
  template <class T>
  void number(T& value) {
    from.number(value);
  }
  void time(std::chrono::milliseconds& value) {
    uint32_t count = 0;
    from.number(count);
    value = std::chrono::milliseconds(count);
  }
  void text(std::string& value, size_t most = kMaxName) { from.text(value, most); }
  void bytes(std::vector<uint8_t>& value, size_t most) { from.bytes(value, most); }
  template <class T, class Fields>
  void optional(std::optional<T>& value, Fields fields) {
    from.optional(value, [&fields](Reader& r, T& inside) {
      Get get{r};
      fields(get, inside);
    });
  }
  template <class T, class Fields>
  void list(std::vector<T>& values, size_t most, Fields fields) {
    from.list(values, most, [&fields](Reader& r, T& inside) {
      Get get{r};
      fields(get, inside);
    });
  }
  template <class T, class Fields>
  void record(T& value, Fields fields) {
    from.record([&](Reader& r) {
      Get get{r};
      fields(get, value);
    });
  }
};

template <class E>
E checked(Reader& from, uint8_t value, E lowest, E highest) {
  if (value < static_cast<uint8_t>(lowest) || value > static_cast<uint8_t>(highest))
    from.fail("a value that is none of its kind");
  return static_cast<E>(value);
}

// ---- Small ones

inline void address(Put& put, const SocketAddress& value) {
  const auto ip = value.ip.bytes();
  put.to.bytes(ip);
  put.number(value.port);
}
inline void address(Get& get, SocketAddress& value) {
  const auto ip = IpAddress::from_bytes(get.from.bytes(16));
  if (!ip) return get.from.fail("an address that is none");
  value.ip = *ip;
  get.number(value.port);
}
inline void ip(Put& put, const IpAddress& value) { put.to.bytes(value.bytes()); }
inline void ip(Get& get, IpAddress& value) {
  const auto read = IpAddress::from_bytes(get.from.bytes(16));
  if (!read) return get.from.fail("an address that is none");
  value = *read;
}

inline void id(Put& put, const identity::SpiffeId& value) { put.text(value.to_string()); }
inline void id(Get& get, identity::SpiffeId& value) {
  std::string text;
  get.text(text);
  auto parsed = identity::SpiffeId::parse(text);
  if (!parsed) return get.from.fail("an identity that is none");
  value = std::move(*parsed);
}

inline void certificates(Put& put, const hbone::PeerChain& value) {
  put.to.number(static_cast<uint32_t>(value == nullptr ? 0 : value->size()));
  if (value == nullptr) return;
  for (const auto& each : *value) {
    unsigned char* der = nullptr;
    const int size = i2d_X509(each.get(), &der);
    put.to.bytes({der, static_cast<size_t>(std::max(size, 0))});
    OPENSSL_free(der);
  }
}
inline void certificates(Get& get, hbone::PeerChain& value) {
  std::vector<std::vector<uint8_t>> all;
  get.from.list(all, kMaxCertificates, [](Reader& from, std::vector<uint8_t>& each) { from.bytes(each, kMaxCertificate); });
  if (all.empty()) return;
  auto chain = std::make_shared<std::vector<identity::X509Ptr>>();
  for (const auto& each : all) {
    const unsigned char* at = each.data();
    identity::X509Ptr read(d2i_X509(nullptr, &at, static_cast<long>(each.size())));
    if (read == nullptr || at != each.data() + each.size()) return get.from.fail("a certificate that is none");
    chain->push_back(std::move(read));
  }
  value = std::move(chain);
}

inline void suite(Put& put, const hbone::CipherSuite& value) { put.number(static_cast<uint16_t>(value)); }
inline void suite(Get& get, hbone::CipherSuite& value) {
  uint16_t number = 0;
  get.number(number);
  value = static_cast<hbone::CipherSuite>(number);
  if (value != hbone::CipherSuite::kAes128GcmSha256 && value != hbone::CipherSuite::kAes256GcmSha384) {
    get.from.fail("a cipher suite that is not ours");
  }
}
inline void secret(Put& put, const hbone::TrafficSecret& value) { put.to.bytes(value.bytes()); }
inline void secret(Get& get, hbone::TrafficSecret& value) {
  value = hbone::TrafficSecret(get.from.bytes(hbone::TrafficSecret::kMaxBytes));
}

inline void header(Put& put, const std::pair<std::string, std::string>& value) {
  put.text(value.first, kMaxHeader);
  put.text(value.second, kMaxHeader);
}
inline void header(Get& get, std::pair<std::string, std::string>& value) {
  get.text(value.first, kMaxHeader);
  get.text(value.second, kMaxHeader);
}

template <class E>
void choice(Put& put, const E& value, E, E) {
  put.number(static_cast<uint8_t>(value));
}
template <class E>
void choice(Get& get, E& value, E lowest, E highest) {
  uint8_t number = 0;
  get.number(number);
  value = checked(get.from, number, lowest, highest);
}

inline void reason(Put& put, const Reason& value) { put.text(std::string(reason_info(value).name)); }
inline void reason(Get& get, Reason& value) {
  std::string name;
  get.text(name);
  for (uint8_t i = 0; i < static_cast<uint8_t>(Reason::kCount_); ++i) {
    if (reason_info(Reason(i)).name != name) continue;
    value = Reason(i);
    return;
  }
  get.from.fail("a reason that is none");
}

// Any: RFC 9113 §7 has more than we use.
inline void code(Put& put, const hbone::H2Error& value) { put.number(static_cast<uint32_t>(value)); }
inline void code(Get& get, hbone::H2Error& value) {
  uint32_t number = 0;
  get.number(number);
  value = static_cast<hbone::H2Error>(number);
}

}  // namespace zt::handover::fields
