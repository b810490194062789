#include "workload_api/yaml/pieces.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <string>

#include "workload_api/store/tables.h"

namespace zt::workload_api {
namespace {

constexpr uint16_t kItemsPerPiece = 16;
constexpr size_t kMaxPieceBytes = 1 << 20;

// A piece that is to begin at a line.
struct Mark {
  uint32_t line = 1;
  uint16_t items = 0;
  LocalList list = {};
};

void mark_items(const Outline::List& list, std::vector<Mark>& marks) {
  const size_t items = list.item_lines.size();
  for (size_t i = 0; i < items; i += kItemsPerPiece)
    marks.push_back({list.item_lines[i], static_cast<uint16_t>(std::min<size_t>(kItemsPerPiece, items - i)), list.list});
}

// Where those lines begin. Nothing if there are fewer, if they do not ascend, or if what the parser takes for the end of a line
// may be another byte than \n.
Result<std::optional<std::vector<uint64_t>>> find_lines(yaml::Source& source, uint64_t size, std::span<const Mark> marks,
                                                        Digest& digest) {
  constexpr size_t kStep = 64 * 1024;
  Window window(source);
  std::vector<uint64_t> found;
  found.reserve(marks.size());
  uint32_t line = 1;
  const auto begins = [&](uint64_t at) {
    if (found.size() < marks.size() && marks[found.size()].line == line) found.push_back(at);
  };
  begins(0);
  for (uint64_t offset = 0; offset < size;) {
    ZT_ASSIGN(const std::string_view text, window.get(offset, kStep));
    if (text.empty()) break;
    digest.add(text);
    // U+0085, U+2028 and U+2029 begin with these.
    if (text.find('\r') != text.npos || text.find('\xc2') != text.npos || text.find('\xe2') != text.npos) return std::nullopt;
    for (size_t end = text.find('\n'); end != text.npos; end = text.find('\n', end + 1)) {
      ++line;
      begins(offset + end + 1);
    }
    offset += text.size();
  }
  if (found.size() != marks.size()) return std::nullopt;
  return found;
}

// The dash with which an item begins; nothing if the text does not begin with one.
std::optional<uint8_t> dash_indent(std::string_view text) {
  const size_t dash = text.find_first_not_of(' ');
  if (dash == text.npos || dash > UINT8_MAX || text[dash] != '-' || dash + 1 == text.size()) return std::nullopt;
  if (text[dash + 1] != ' ' && text[dash + 1] != '\n') return std::nullopt;
  return static_cast<uint8_t>(dash);
}

// What lies between the marks and, at last, the end.
Result<std::optional<std::vector<Pieces::Piece>>> make_pieces(yaml::Source& source, uint64_t size, std::span<const Mark> marks,
                                                              Digest& digest) {
  ZT_ASSIGN(const auto lines, find_lines(source, size, marks, digest));
  if (!lines) return std::nullopt;
  Window window(source);
  std::vector<Pieces::Piece> pieces;
  pieces.reserve(marks.size());
  for (size_t i = 0; i < marks.size(); ++i) {
    const uint64_t begin = (*lines)[i], end = i + 1 < marks.size() ? (*lines)[i + 1] : size;
    if (end - begin > kMaxPieceBytes) return std::nullopt;
    ZT_ASSIGN(const std::string_view text, window.get(begin, static_cast<size_t>(end - begin)));
    Pieces::Piece piece{.hash = hashing::of(text),
                        .bytes = static_cast<uint32_t>(text.size()),
                        .items = marks[i].items,
                        .indent = 0,
                        .list = marks[i].list};
    if (piece.items > 0) {
      const auto indent = dash_indent(text);
      const bool continues = i > 0 && marks[i - 1].items > 0 && marks[i - 1].list == piece.list;
      if (!indent || (continues && pieces.back().indent != *indent)) return std::nullopt;
      piece.indent = *indent;
    }
    pieces.push_back(piece);
  }
  return pieces;
}

}  // namespace

Result<std::string_view> Window::get(uint64_t offset, size_t size, Way way) {
  if (offset < at_ || offset + size > at_ + bytes_.size()) {
    const size_t want = std::max(kBytes, size);
    at_ = way == Way::kForward ? offset : offset + size - std::min<uint64_t>(want, offset + size);
    bytes_.resize(way == Way::kForward ? want : static_cast<size_t>(offset + size - at_));
    size_t have = 0;
    while (have < bytes_.size()) {
      ZT_ASSIGN(const size_t got, source_.read(at_ + have, std::span(bytes_).subspan(have)));
      if (got == 0) break;
      have += got;
    }
    bytes_.resize(have);
  }
  const std::string_view all(bytes_.data(), bytes_.size());
  return all.substr(std::min<size_t>(static_cast<size_t>(offset - at_), all.size()), size);
}

void Digest::add(std::string_view bytes) {
  size_ += bytes.size();
  while (!bytes.empty()) {
    if (rest_.empty() && bytes.size() >= kBlock) {
      value_ = hashing::mix(value_, hashing::of(bytes.substr(0, kBlock)));
      bytes.remove_prefix(kBlock);
      continue;
    }
    const size_t take = std::min(kBlock - rest_.size(), bytes.size());
    rest_.insert(rest_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(take));
    bytes.remove_prefix(take);
    if (rest_.size() < kBlock) continue;
    value_ = hashing::mix(value_, hashing::of(std::string_view(rest_.data(), kBlock)));
    rest_.clear();
  }
}

uint64_t Digest::value() const {
  return hashing::mix(hashing::mix(value_, hashing::of(std::string_view(rest_.data(), rest_.size()))), size_);
}

std::optional<Pieces> Pieces::cut(yaml::Source& source, uint64_t size, Outline outline, uint64_t digest, size_t values) {
  std::vector<Mark> marks{{.line = 1}};
  for (const Outline::List& list : outline.lists) {
    if (!list.key_at_margin) return std::nullopt;
    if (list.key_line > 1) marks.push_back({.line = list.key_line});
    mark_items(list, marks);
  }
  Digest found;
  auto pieces = make_pieces(source, size, marks, found);
  if (!pieces || !*pieces || found.value() != digest) return std::nullopt;
  Pieces made;
  made.pieces_ = std::move(**pieces);
  made.names_ = std::move(outline.names);
  made.names_.shrink_to_fit();
  made.values_ = values;
  return made;
}

Result<std::optional<Pieces::Change>> Pieces::compare(yaml::Source& source, uint64_t size) const {
  Window window(source);
  Change change{.first = 0, .last = pieces_.size(), .begin = 0, .end = size};
  for (; change.first < pieces_.size(); ++change.first) {
    const Piece& piece = pieces_[change.first];
    if (piece.bytes > size - change.begin) break;
    ZT_ASSIGN(const std::string_view text, window.get(change.begin, piece.bytes));
    if (text.size() != piece.bytes || hashing::of(text) != piece.hash) break;
    change.begin += piece.bytes;
  }
  if (change.first == pieces_.size() && change.begin == size) {
    change.last = change.first;
    return change;  // nothing has changed
  }
  for (; change.last > change.first; --change.last) {
    const Piece& piece = pieces_[change.last - 1];
    if (piece.bytes > change.end - change.begin) break;
    ZT_ASSIGN(const std::string_view text, window.get(change.end - piece.bytes, piece.bytes, Window::Way::kBackward));
    if (text.size() != piece.bytes || hashing::of(text) != piece.hash) break;
    change.end -= piece.bytes;
  }
  // Before what is the same to the end there must be the end of a line, as there was.
  if (change.last < pieces_.size() && change.end > change.begin) {
    ZT_ASSIGN(const std::string_view before, window.get(change.end - 1, 1));
    if (before != "\n") change.end += pieces_[change.last++].bytes;
  }
  // What goes before the change was followed by an item of the same list, and must be.
  for (;; --change.first, change.begin -= pieces_[change.first].bytes) {
    if (change.first < pieces_.size() && pieces_[change.first].items > 0) {
      ZT_ASSIGN(const std::string_view text, window.get(change.begin, size_t{pieces_[change.first].indent} + 2));
      if (dash_indent(text) == pieces_[change.first].indent) break;
    }
    if (change.first == 0 || pieces_[change.first - 1].items == 0) return std::nullopt;
  }
  const LocalList list = pieces_[change.first].list;
  for (size_t i = change.first; i < change.last; ++i)
    if (pieces_[i].items == 0 || pieces_[i].list != list) return std::nullopt;
  return change;
}

std::optional<Pieces> Pieces::with(const Change& change, std::string_view bytes, Outline outline, size_t values) const {
  Pieces made;
  made.pieces_.assign(pieces_.begin(), pieces_.begin() + static_cast<ptrdiff_t>(change.first));
  if (!bytes.empty()) {
    if (outline.lists.size() != 1 || outline.names.empty() || outline.lists[0].item_lines[0] != 1) return std::nullopt;
    std::vector<Mark> marks;
    mark_items(outline.lists[0], marks);
    yaml::TextSource source(bytes);
    Digest digest;
    const auto pieces = make_pieces(source, bytes.size(), marks, digest);
    if (!pieces || !*pieces || (*pieces)->front().indent != pieces_[change.first].indent) return std::nullopt;
    made.pieces_.insert(made.pieces_.end(), (*pieces)->begin(), (*pieces)->end());
  }
  made.pieces_.insert(made.pieces_.end(), pieces_.begin() + static_cast<ptrdiff_t>(change.last), pieces_.end());
  const auto from = names_.begin() + static_cast<ptrdiff_t>(items_before(change.first));
  const auto to = names_.begin() + static_cast<ptrdiff_t>(items_before(change.last));
  made.names_.reserve(names_.size() - static_cast<size_t>(to - from) + outline.names.size());
  made.names_.assign(names_.begin(), from);
  made.names_.insert(made.names_.end(), outline.names.begin(), outline.names.end());
  made.names_.insert(made.names_.end(), to, names_.end());
  made.values_ = values_ + values;
  return made;
}

size_t Pieces::items_before(size_t piece) const {
  return std::accumulate(pieces_.begin(), pieces_.begin() + static_cast<ptrdiff_t>(piece), size_t{0},
                         [](size_t sum, const Piece& one) { return sum + one.items; });
}

size_t Pieces::items(LocalList list) const {
  return std::accumulate(pieces_.begin(), pieces_.end(), size_t{0},
                         [&](size_t sum, const Piece& one) { return sum + (one.list == list ? one.items : 0); });
}

}  // namespace zt::workload_api
