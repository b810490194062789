#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/result.h"

// Small files that may hold keys. All functions block; never on a worker or the control thread.
namespace zt::identity {

inline constexpr size_t kMaxPrivateFileBytes = 1 << 20;

// Text that is wiped when it goes. Move-only, never grows (growing would leave copies behind).
class SecretText {
 public:
  explicit SecretText(size_t size) : bytes_(size) {}
  SecretText(SecretText&& other) noexcept : bytes_(std::move(other.bytes_)), length_(std::exchange(other.length_, 0)) {}
  SecretText& operator=(SecretText&&) = delete;
  ~SecretText();

  [[nodiscard]] char* data() { return bytes_.data(); }
  [[nodiscard]] size_t capacity() const { return bytes_.size(); }
  void set_length(size_t length) { length_ = length; }
  [[nodiscard]] std::string_view view() const { return {bytes_.data(), length_}; }

 private:
  std::vector<char> bytes_;
  size_t length_ = 0;
};

// A regular file of at most kMaxPrivateFileBytes. Errors name the path and the cause.
[[nodiscard]] Result<SecretText> read_private_file(const std::string& path);

// Makes the directory and missing parents, each 0700. An existing one is left as it is.
[[nodiscard]] Result<> make_private_directory(const std::string& path);

// Creates directory/name with mode 0600 in one step: readers see no file or the whole file, also after a
// crash. Never replaces an existing file: of several processes that publish at once, exactly one succeeds and
// the others learn that it exists.
enum class Published : uint8_t { kCreated, kExisted };
[[nodiscard]] Result<Published> publish_private_file(const std::string& directory, const std::string& name,
                                                     std::string_view content);

}  // namespace zt::identity
