#include "workload_api/yaml/local_version.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "base/file.h"
#include "workload_api/yaml/collector.h"

namespace zt::workload_api {
namespace {

constexpr yaml::Limits kLimits;
constexpr size_t kMaxChangeBytes = 4 << 20;  // in memory at once; more is read as a whole file is

class FileSource final : public yaml::Source {
 public:
  FileSource(const std::string& path, OpenFile file, const std::stop_token& stop)
      : path_(path), file_(std::move(file)), stop_(stop) {}
  Result<size_t> read(uint64_t offset, std::span<char> into) override {
    if (stop_.stop_requested()) return fail(Fault::kIo, "stopped reading " + path_);
    ZT_ASSIGN(const size_t got, read_at(file_.fd.get(), offset, into, path_));
    if (offset == digest_.size()) digest_.add(std::string_view(into.data(), got));
    return got;
  }
  void from_the_beginning() { digest_ = {}; }
  [[nodiscard]] uint64_t size() const { return file_.size; }
  // Of what was read from the beginning on, in order.
  [[nodiscard]] const Digest& digest() const { return digest_; }

 private:
  const std::string& path_;
  const OpenFile file_;
  const std::stop_token& stop_;
  Digest digest_;
};

LocalVersion read_whole(FileSource& source, const LocalReading& reading) {
  source.from_the_beginning();
  Collector collector(reading.present.get());
  yaml::Reader::Seen seen;
  {
    yaml::Reader reader(source, kLimits);
    collector.read(reader);
    seen = reader.seen();
  }
  LocalVersion version{.content = collector.take(), .pieces = nullptr};
  const uint64_t size = source.digest().size();
  if (size < reading.worth_cutting || seen.anchors || seen.directives) return version;
  const uint64_t digest = source.digest().value();
  if (auto pieces = Pieces::cut(source, size, collector.take_outline(), digest, seen.values))
    version.pieces = std::make_shared<const Pieces>(std::move(*pieces));
  return version;
}

// The bytes of a change as a document of its own: their list, and after them something by which it shows that the parser came to
// their end as it would have in the file: an item or a key like the one that follows there.
class ChangeDocument {
 public:
  ChangeDocument(const Pieces& before, const Pieces::Change& change, std::string_view bytes)
      : list_(before.pieces()[change.first].list), text_(kLocalListKeys[static_cast<size_t>(list_)]) {
    text_.append(":\n").append(bytes);
    if (change.last == before.pieces().size()) return;
    sentinel_line_ = static_cast<uint32_t>(1 + std::ranges::count(text_, '\n'));
    const Pieces::Piece& next = before.pieces()[change.last];
    item_follows_ = next.items > 0;
    sentinel_column_ = item_follows_ ? next.indent + 3u : 1u;
    text_.append(item_follows_ ? std::string(next.indent, ' ') + "- ~\n" : std::string(kEndKey) + ":\n");
  }

  // Throws yaml::Refusal. False: it cannot be said on its own what the bytes mean.
  bool read(Collector& collector, size_t values_before) {
    yaml::TextSource source(text_);
    yaml::Limits limits = kLimits;
    limits.values -= std::min(limits.values, values_before);
    yaml::Reader reader(source, limits);
    bool ended = sentinel_line_ == 0;
    const auto is_sentinel = [&](const yaml::Value& value) {
      return value.mark().line == sentinel_line_ && value.mark().column == sentinel_column_;
    };
    const std::array<yaml::Reader::Section, 2> sections{
        {{.key = kLocalListKeys[static_cast<size_t>(list_)],
          .item =
              [&](const yaml::Value& item) {
                if (item_follows_ && item.is_null() && is_sentinel(item)) {
                  ended = true;
                } else {
                  collector.item(list_, item);
                }
              },
          .begins = [&](const yaml::Value& key) { collector.begin(list_, key); }},
         {.key = kEndKey,
          .item = [](const yaml::Value& item) { item.refuse("not expected"); },
          .begins = [&](const yaml::Value& key) { ended = ended || (!item_follows_ && is_sentinel(key)); }}}};
    reader.sections(sections, "");
    values_ = reader.seen().values;
    return ended && !reader.seen().anchors && !reader.seen().directives;
  }
  [[nodiscard]] size_t values() const { return values_; }
  [[nodiscard]] LocalList list() const { return list_; }

 private:
  static constexpr std::string_view kEndKey = "zt-end";
  LocalList list_;
  std::string text_;
  bool item_follows_ = false;
  uint32_t sentinel_line_ = 0, sentinel_column_ = 0;  // 0: nothing follows
  size_t values_ = 0;
};

size_t& count_of(LocalContent::Counts& counts, LocalList list) {
  switch (list) {
    case LocalList::kWorkloads: return counts.workloads;
    case LocalList::kServices: return counts.services;
    case LocalList::kPolicies: break;
  }
  return counts.policies;
}

using NameSet = decltype(LocalNames::addresses);

// Workloads and services share their names.
bool share_names(LocalList a, LocalList b) { return (a == LocalList::kPolicies) == (b == LocalList::kPolicies); }

// Whether the file has one of the names, of items of that list, elsewhere than in the change.
bool there_already(const Pieces& before, const Pieces::Change& change, LocalList list, const NameSet& names) {
  size_t name = 0;
  for (size_t i = 0; i < before.pieces().size(); ++i) {
    const Pieces::Piece& piece = before.pieces()[i];
    const bool other = (i < change.first || i >= change.last) && share_names(piece.list, list);
    for (size_t last = name + piece.items; name < last; ++name)
      if (other && names.contains(before.names()[name])) return true;
  }
  return false;
}

// Nothing: the file has to be read as a whole.
std::optional<LocalVersion> read_change(FileSource& source, const LocalReading& reading) {
  const Pieces& before = *reading.before;
  const auto change = before.compare(source, source.size());
  if (!change || !*change || (*change)->end - (*change)->begin > kMaxChangeBytes) return std::nullopt;
  const auto [first, last, begin, end] = **change;
  LocalVersion version;
  LocalContent& content = version.content;
  for (const LocalList list : {LocalList::kWorkloads, LocalList::kServices, LocalList::kPolicies})
    count_of(content.kept, list) = before.items(list);
  content.edit = true;
  content.compared_with = reading.present->generation();
  content.names.emplace();
  if (first == last && begin == end) {
    version.pieces = reading.before;
    return version;
  }

  Window window(source);
  const auto got = window.get(begin, static_cast<size_t>(end - begin));
  if (!got || got->size() != end - begin) return std::nullopt;
  const std::string bytes(*got);
  Collector collector(reading.present.get());
  const LocalList list = before.pieces()[first].list;
  size_t values = 0;
  if (!bytes.empty()) {
    ChangeDocument document(before, **change, bytes);
    try {
      if (!document.read(collector, before.values())) return std::nullopt;
    } catch (const yaml::Refusal&) {
      return std::nullopt;  // whose place in the file shows when all of it is read
    }
    values = document.values();
  }
  LocalContent read = collector.take();
  Outline outline = collector.take_outline();
  for (Outline::List& one : outline.lists)
    for (uint32_t& line : one.item_lines) --line;  // the key's
  const NameSet& names = list == LocalList::kPolicies ? read.names->policies : read.names->addresses;
  if (there_already(before, **change, list, names)) return std::nullopt;
  auto pieces = before.with(**change, bytes, std::move(outline), values);
  if (!pieces) return std::nullopt;

  const size_t from = before.items_before(first), to = before.items_before(last);
  NameSet& added = list == LocalList::kPolicies ? content.names->policies : content.names->addresses;
  content.batch = std::move(read.batch);
  auto& removed = list == LocalList::kPolicies ? content.batch.removed_policies : content.batch.removed_addresses;
  added = names;
  for (size_t i = from; i < to; ++i) {
    added.erase(before.names()[i]);
    if (!names.contains(before.names()[i])) removed.push_back(before.names()[i].str());
  }
  size_t& kept = count_of(content.kept, list);
  kept = kept - (to - from) + read.same_workloads.size() + read.same_services.size() + read.same_policies.size();
  version.pieces = std::make_shared<const Pieces>(std::move(*pieces));
  return version;
}

}  // namespace

Result<LocalVersion> read_local_version(const std::string& path, const LocalReading& reading) {
  ZT_ASSIGN(OpenFile file, open_file(path, kLimits.bytes));
  FileSource source(path, std::move(file), reading.stop);
  if (reading.before && reading.present)
    if (auto version = read_change(source, reading)) return std::move(*version);
  return yaml::checked(path, [&] { return read_whole(source, reading); });
}

}  // namespace zt::workload_api
