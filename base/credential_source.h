#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// Where a client of a gRPC server has from what it trusts and what it proves itself with. Plain values; what reads them is
// base/grpc/endpoint.h.
namespace zt {

// The roots that the server's certificate must lead to.
struct Roots {
  enum class Source : uint8_t { kFile, kSystem, kInline };
  Source source = Source::kFile;
  std::string value = {};  // path, or PEM text
};

// A bearer token: a file that is read for each use, or its text, which is a secret.
struct Token {
  enum class Source : uint8_t { kNone, kFile, kLiteral };
  Source source = Source::kNone;
  std::string value = {};  // path, or the secret itself
};

using HeaderList = std::vector<std::pair<std::string, std::string>>;  // gRPC metadata, names in lower case

}  // namespace zt
