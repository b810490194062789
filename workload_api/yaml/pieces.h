#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/yaml/reader.h"
#include "workload_api/yaml/outline.h"

namespace zt::workload_api {

// A document, piece by piece, for whoever looks at neighbouring pieces: they come from one read. Sizes are in bytes.
class Window {
 public:
  explicit Window(yaml::Source& source) : source_(source) {}
  // The bytes from `offset` on; fewer than `size` only at the end. Valid until the next call. Forward reads what follows along,
  // backward what goes before.
  enum class Way : uint8_t { kForward, kBackward };
  [[nodiscard]] Result<std::string_view> get(uint64_t offset, size_t size, Way way = Way::kForward);

 private:
  static constexpr size_t kBytes = 256 * 1024;
  yaml::Source& source_;
  std::vector<char> bytes_;
  uint64_t at_ = 0;
};

// Which bytes a version of the local file had, cut where an item of one of its lists begins, so that of the next version only
// the pieces that have changed are parsed.
//
// Why that gives what parsing all of it gives: each cut is at the beginning of a line on which, as the parser said, an item of a
// list or a key of the document begins, in a document without anchors and directives. At such a place the parser's state is the
// same whatever went before, so equal bytes between two of them mean the same.
class Pieces {
 public:
  struct Piece {
    uint64_t hash = 0;
    uint32_t bytes = 0;
    uint16_t items = 0;   // 0: keys of the document, and lists without items
    uint8_t indent = 0;   // of the items' dashes
    LocalList list = {};  // of the items
  };

  // The pieces of the document in `source` that begins at the first line and was read as `outline` says. Nothing if it is written in
  // a way that cannot be cut (lists in brackets, two items on a line, line ends other than \n), or is not what was read: its
  // digest is `digest`. Blocks on file I/O.
  static std::optional<Pieces> cut(yaml::Source& source, uint64_t size, Outline outline, uint64_t digest, size_t values);

  // The pieces [first, last) have become the bytes [begin, end).
  struct Change {
    size_t first = 0, last = 0;
    uint64_t begin = 0, end = 0;
  };
  // How the document in `source` differs. Nothing if the change cannot be read on its own: it must be within the items of one
  // list. Blocks on file I/O.
  [[nodiscard]] Result<std::optional<Change>> compare(yaml::Source& source, uint64_t size) const;

  // The items of `list` in those bytes, as part of it, found as `outline` says (its lines are those of the bytes).
  [[nodiscard]] std::optional<Pieces> with(const Change& change, std::string_view bytes, Outline outline, size_t values) const;

  [[nodiscard]] const std::vector<Piece>& pieces() const { return pieces_; }
  [[nodiscard]] const std::vector<Str>& names() const { return names_; }
  [[nodiscard]] size_t items_before(size_t piece) const;
  [[nodiscard]] size_t items(LocalList list) const;
  [[nodiscard]] size_t values() const { return values_; }

 private:
  std::vector<Piece> pieces_;
  std::vector<Str> names_;  // of the items
  size_t values_ = 0;
};

// A digest of bytes that does not depend on how they come.
class Digest {
 public:
  void add(std::string_view bytes);
  [[nodiscard]] uint64_t value() const;
  [[nodiscard]] uint64_t size() const { return size_; }

 private:
  static constexpr size_t kBlock = 4096;
  uint64_t value_ = 0, size_ = 0;
  std::vector<char> rest_;
};

}  // namespace zt::workload_api
