#pragma once
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "ztunnel/admin/http_server.h"

// Compressed answers (contract §10.1), made piece by piece: what is kept is the compressor's own state, some hundred KiB. Any thread,
// one at a time.
namespace zt::ztunnel {

class Compressor {
 public:
  virtual ~Compressor() = default;
  // Appends what has become of `in`; `last`: and of all before it. Throws std::bad_alloc only.
  virtual void add(std::string_view in, bool last, std::string& out) = 0;
};

// Which coding of those we have the header allows and likes best; equally liked ones in this order: zstd, gzip, br, deflate. Empty: none.
[[nodiscard]] std::string_view choose_coding(std::string_view accept_encoding);
// `coding` is one of these.
[[nodiscard]] std::unique_ptr<Compressor> make_compressor(std::string_view coding);

// Answers with `more`, compressed if the request allows it.
void answer_in_pieces(HttpResponse& response, const HttpRequest& request, std::move_only_function<bool(std::string& out)> more);

}  // namespace zt::ztunnel
