#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/result.h"
#include "base/yaml/value.h"

// Reading a YAML document event by event (libyaml), within limits, and in pieces: of a map of long lists only the item that is
// being looked at is in memory, not the file, and not a tree of it.
namespace zt::yaml {

// What is read at all. More is refused, at the place where it is too much.
struct Limits {
  size_t bytes = 64u << 20;
  size_t depth = 32;           // nested lists and maps
  size_t values = 16'000'000;  // each alias counted as all that it stands for
  size_t held = 500'000;       // values in memory at a time: of one item, and of those with anchors
};

// Where the bytes of a document come from.
class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;
  // Up to into.size() bytes from `offset` on; none at the end. Mostly called for one piece after the other.
  virtual Result<size_t> read(uint64_t offset, std::span<char> into) = 0;
};

class TextSource final : public Source {
 public:
  explicit TextSource(std::string_view text) : text_(text) {}
  Result<size_t> read(uint64_t offset, std::span<char> into) override;

 private:
  std::string_view text_;
};

// One document from one source, once. Throws Refusal for what is wrong in it, and Error for what the source says: call it within
// checked(). Aliases are followed. Bytes that are no UTF-8 text and a second document are refused.
class Reader {
 public:
  explicit Reader(Source& source, const Limits& limits = {});
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;
  ~Reader();

  // The whole document; null if there is nothing in it. Lives as long as the reader.
  [[nodiscard]] Value whole();

  // A document that is a map of lists; what is absent or null has no items. item(value) is called for each item of each list, in
  // the order of the file, before the rest has been read: if anything is refused later, what it did must be undone. The value
  // is gone afterwards. `empty` is what is said of a document without anything in it.
  struct Section {
    std::string_view key;
    std::function<void(const Value&)> item;
    std::function<void(const Value&)> begins = {};  // called with the key before the first item
  };
  void sections(std::span<const Section> known, std::string_view empty);

  // What there was in what has been read.
  struct Seen {
    size_t values = 0;        // as Limits counts them
    bool anchors = false;     // a value may then mean something elsewhere
    bool directives = false;  // a tag may then mean something else
  };
  [[nodiscard]] Seen seen() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

[[nodiscard]] std::unexpected<Error> refused(std::string_view name, const Refusal& refusal);

template <class T>
struct ResultOf {
  using Type = Result<T>;
};
template <class T>
struct ResultOf<Result<T>> {
  using Type = Result<T>;
};

// What `read` returns, or the Error that it ended with: kInvalidInput, "name:line:column: what is wrong".
template <class Read>
auto checked(std::string_view name, Read&& read) -> typename ResultOf<std::invoke_result_t<Read>>::Type {
  try {
    return std::forward<Read>(read)();
  } catch (const Refusal& refusal) {
    return refused(name, refusal);
  } catch (Error& error) {
    return std::unexpected(std::move(error));
  }
}

}  // namespace zt::yaml
