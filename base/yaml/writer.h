#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace zt::yaml {

// Writes one YAML document as it goes (libyaml): blocks indented by two, lines as long as they come. The caller keeps the order
// of calls right: in a map a key, which is a string, before every value. `tag` is "!Name" or empty. One thread.
class Writer {
 public:
  // Appends to `out`, which outlives the writer and is complete after finish().
  explicit Writer(std::string& out);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void begin_map(std::string_view tag = {});
  void end_map();
  void begin_list(std::string_view tag = {});
  void end_list();
  // In quotes where a reader would take it for anything but this text. Bytes that are not UTF-8 become U+FFFD.
  void string(std::string_view text, std::string_view tag = {});
  // Without quotes: a number, true, false, null.
  void plain(std::string_view text, std::string_view tag = {});
  void finish();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace zt::yaml
