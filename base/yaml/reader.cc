#include "base/yaml/reader.h"

#include <fmt/format.h>
#include <yaml.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <map>
#include <new>
#include <optional>
#include <vector>

#include "base/yaml/ahead.h"
#include "base/yaml/arena.h"

namespace zt::yaml {
namespace {

Mark mark_of(const yaml_mark_t& mark) { return {static_cast<uint32_t>(mark.line + 1), static_cast<uint32_t>(mark.column + 1)}; }

std::string_view view(const yaml_char_t* text) {
  return text == nullptr ? std::string_view() : std::string_view(reinterpret_cast<const char*>(text));
}

// An event of libyaml, and who frees it.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { yaml_event_delete(&event_); }
  yaml_event_t* fill() {
    yaml_event_delete(&event_);
    return &event_;
  }
  [[nodiscard]] yaml_event_type_t type() const { return event_.type; }
  [[nodiscard]] Mark mark() const { return mark_of(event_.start_mark); }
  const yaml_event_t* operator->() const { return &event_; }
  const yaml_event_t& operator*() const { return event_; }

 private:
  yaml_event_t event_{};
};

bool says_null(const yaml_event_t& scalar) {
  if (scalar.data.scalar.style != YAML_PLAIN_SCALAR_STYLE || scalar.data.scalar.tag != nullptr) return false;
  const std::string_view text(reinterpret_cast<const char*>(scalar.data.scalar.value), scalar.data.scalar.length);
  return text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL";
}

}  // namespace

class Reader::Impl {
 public:
  Impl(Source& source, const Limits& limits) : source_(source), limits_(limits) {
    if (yaml_parser_initialize(&parser_) == 0) throw std::bad_alloc();
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input(&parser_, read_more, this);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() { yaml_parser_delete(&parser_); }

  Value whole() {
    if (!begin()) return Value(*arena_.make<Node>());
    const Node* root = build();
    end();
    return Value(*root);
  }

  void sections(std::span<const Section> known, std::string_view empty) {
    Node root;
    if (!begin()) Value(root).refuse(empty);
    root.mark = event_.mark();
    if (event_.type() == YAML_SCALAR_EVENT && says_null(*event_)) Value(root).refuse(empty);
    if (event_.type() != YAML_MAPPING_START_EVENT) Value(root).refuse("map expected");
    root.kind = Node::Kind::kMap;
    open(view(event_->data.mapping_start.anchor));  // an alias to it would be one to a value that contains it
    const Value document(root);
    std::vector<std::string_view> seen;
    while (next().type() != YAML_MAPPING_END_EVENT) {
      const Value key(*build());
      if (!key.is_scalar()) key.refuse("a key must be plain text");
      const auto section = std::ranges::find(known, key.text(), &Section::key);
      const Value named(key.node(), document, key.text());
      if (section == known.end()) {
        std::string names;
        for (const Section& one : known) names.append(names.empty() ? "" : ", ").append(one.key);
        named.refuse(fmt::format("unknown key (known here: {})", names));
      }
      if (std::ranges::find(seen, section->key) != seen.end()) named.refuse("the key is there twice");
      seen.push_back(section->key);
      if (section->begins) section->begins(named);
      next();
      items(document, *section);
    }
    end();
  }

  [[nodiscard]] Seen seen() const { return {.values = values_, .anchors = !anchors_.empty(), .directives = directives_}; }

 private:
  static int read_more(void* self, unsigned char* buffer, size_t size, size_t* got) noexcept {
    auto& impl = *static_cast<Impl*>(self);
    auto read = impl.source_.read(impl.offset_, {reinterpret_cast<char*>(buffer), size});
    if (!read) {
      impl.failure_ = std::move(read).error();
      return 0;
    }
    *got = *read;
    impl.offset_ += *read;
    impl.too_long_ = impl.offset_ > impl.limits_.bytes;
    return impl.too_long_ ? 0 : 1;
  }

  const Event& next() {
    if (yaml_parser_parse(&parser_, event_.fill()) == 0) fail_here();
    return event_;
  }

  [[noreturn]] void fail_here() {
    if (failure_) throw std::move(*failure_);
    const Mark at = mark_of(parser_.mark);
    if (too_long_) throw Refusal{at, fmt::format("more than {} bytes", limits_.bytes)};
    switch (parser_.error) {
      case YAML_MEMORY_ERROR: throw std::bad_alloc();
      case YAML_READER_ERROR: throw Refusal{place_of(parser_.problem_offset), no_text()};
      default: break;
    }
    // What libyaml says at the end of the file names a line that the file does not have.
    const bool at_end =
        parser_.error == YAML_PARSER_ERROR && parser_.eof != 0 && parser_.problem_mark.index >= parser_.mark.index;
    if (at_end && !open_.empty()) throw Refusal{open_.back(), "what begins here has no end"};
    std::string text = parser_.problem != nullptr ? parser_.problem : "not YAML";
    if (parser_.problem_mark.index == parser_.context_mark.index && !open_.empty()) {  // which says nothing
      text += fmt::format(" (within what begins at {}:{})", open_.back().line, open_.back().column);
    } else if (parser_.context != nullptr) {
      const Mark begun = mark_of(parser_.context_mark);
      text += fmt::format(" ({} that begins at {}:{})", parser_.context, begun.line, begun.column);
    }
    throw Refusal{mark_of(parser_.problem_mark), std::move(text)};
  }

  [[nodiscard]] std::string no_text() const {
    if (parser_.problem_value == 0) return "a zero byte";
    if (std::string_view(parser_.problem).starts_with("control"))
      return fmt::format("a control character, U+{:04X}", parser_.problem_value);
    return fmt::format("no UTF-8 text ({})", parser_.problem);
  }

  // libyaml knows only how many bytes went before.
  Mark place_of(uint64_t offset) {
    Mark at;
    char piece[16 * 1024];
    for (uint64_t done = 0; done < offset;) {
      const auto got = source_.read(done, std::span(piece).first(std::min<uint64_t>(sizeof piece, offset - done)));
      if (!got || *got == 0) break;
      for (const char c : std::span(piece).first(*got)) {
        if (c == '\n') {
          ++at.line;
          at.column = 1;
        } else if ((static_cast<uint8_t>(c) & 0xc0u) != 0x80u) {
          ++at.column;
        }
      }
      done += *got;
    }
    return at;
  }

  // The first event of the document's value; false if there is no document.
  bool begin() {
    next();  // stream start
    if (next().type() == YAML_STREAM_END_EVENT) return false;
    const auto& document = event_->data.document_start;
    directives_ = document.version_directive != nullptr || document.tag_directives.start != document.tag_directives.end;
    next();
    return true;
  }
  void end() {
    next();  // document end
    if (next().type() != YAML_STREAM_END_EVENT) throw Refusal{event_.mark(), "more than one document in the file"};
  }

  void count(Mark mark, size_t values) {
    values_ += values;
    if (values_ > limits_.values)
      throw Refusal{mark, fmt::format("more than {} values (aliases counted as what they stand for)", limits_.values)};
  }

  Node* make(Node::Kind kind) {
    const Mark mark = event_.mark();
    if (++held_ > limits_.held)
      throw Refusal{mark, fmt::format("more than {} values in one item or under anchors", limits_.held)};
    Node* node = arena_.make<Node>();
    node->kind = kind;
    node->mark = mark;
    return node;
  }

  void open(std::string_view anchor) {
    if (!anchor.empty()) anchors_[std::string(anchor)] = nullptr;
  }
  void close(const std::string& anchor, const Node* node) {
    if (anchor.empty()) return;
    anchors_[anchor] = node;
    anchored_ = true;
  }

  // The value that begins with the present event, in the arena.
  Node* build() {
    switch (event_.type()) {
      case YAML_ALIAS_EVENT: return alias();
      case YAML_SCALAR_EVENT: {
        Node* node = make(says_null(*event_) ? Node::Kind::kNull : Node::Kind::kScalar);
        count(node->mark, 1);
        const auto& scalar = event_->data.scalar;
        node->text = arena_.copy({reinterpret_cast<const char*>(scalar.value), scalar.length});
        if (scalar.tag != nullptr) node->tag = arena_.copy(view(scalar.tag));
        if (scalar.anchor != nullptr) close(std::string(view(scalar.anchor)), node);
        return node;
      }
      case YAML_SEQUENCE_START_EVENT:
        return container(Node::Kind::kList, view(event_->data.sequence_start.anchor), view(event_->data.sequence_start.tag));
      case YAML_MAPPING_START_EVENT:
        return container(Node::Kind::kMap, view(event_->data.mapping_start.anchor), view(event_->data.mapping_start.tag));
      default: throw Refusal{event_.mark(), "not YAML"};
    }
  }

  Node* alias() {
    const std::string_view name = view(event_->data.alias.anchor);
    const auto found = anchors_.find(name);
    if (found == anchors_.end()) throw Refusal{event_.mark(), fmt::format("alias to an anchor that is not there: {}", name)};
    if (found->second == nullptr) throw Refusal{event_.mark(), "alias to a value that contains it"};
    count(event_.mark(), found->second->stands_for);
    Node* node = make(found->second->kind);
    const Mark mark = node->mark;
    *node = *found->second;  // with what is in it
    node->mark = mark;
    node->next = nullptr;
    return node;
  }

  Node* container(Node::Kind kind, std::string_view anchor_view, std::string_view tag) {
    const std::string anchor(anchor_view);
    Node* node = make(kind);
    count(node->mark, 1);
    node->tag = arena_.copy(tag);
    descend(node->mark);
    open(anchor);
    const auto ends = kind == Node::Kind::kMap ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
    const Node** link = &node->first;
    uint32_t children = 0;
    while (next().type() != ends) {
      Node* child = build();
      *link = child;
      link = &child->next;
      node->stands_for += child->stands_for;
      ++children;
    }
    node->count = kind == Node::Kind::kMap ? children / 2 : children;
    open_.pop_back();
    close(anchor, node);
    return node;
  }

  void descend(Mark mark) {
    open_.push_back(mark);
    if (open_.size() > limits_.depth) throw Refusal{mark, fmt::format("nested deeper than {} levels", limits_.depth)};
  }

  // The list that begins with the present event, item by item.
  void items(const Value& root, const Section& section) {
    const bool streams = event_.type() == YAML_SEQUENCE_START_EVENT && event_->data.sequence_start.anchor == nullptr;
    if (!streams) {
      const Node* node = build();
      const Value list(*node, root, section.key);
      if (!list.is_null()) list.each(section.item);
      return;
    }
    Node header;
    header.kind = Node::Kind::kList;
    header.mark = event_.mark();
    const Value list(header, root, section.key);
    descend(root.mark());
    descend(header.mark);
    for (size_t index = 0; next().type() != YAML_SEQUENCE_END_EVENT; ++index) {
      if (index == kAlone) {
        items_ahead(list, section, index);
        break;
      }
      const Arena::Place place = arena_.place();
      const size_t held = held_;
      anchored_ = false;
      section.item(Value(*build(), list, index));
      if (anchored_) continue;  // an alias may ask for some of it later
      arena_.rewind(place);
      held_ = held;
    }
    open_.resize(open_.size() - 2);
  }

  struct Batch {
    std::unique_ptr<Arena> arena = std::make_unique<Arena>();
    std::vector<const Node*> items;
    std::exception_ptr error;  // which came after them
  };

  // The rest of a long list, from the present event on. libyaml takes about as long as whoever makes something of the items, so it
  // goes on on a thread of its own meanwhile. As long as that runs everything in here is its own.
  void items_ahead(const Value& list, const Section& section, size_t index) {
    bool more = true;
    Ahead<Batch> batches(kBatches, [&]() -> std::optional<Batch> {
      if (!more) return std::nullopt;
      Batch batch;
      std::swap(arena_, *batch.arena);
      const size_t begin = values_;
      anchored_ = false;
      try {
        while (more && batch.items.size() < kBatchItems && values_ - begin < kBatchValues) {
          const size_t held = held_;
          batch.items.push_back(build());
          if (!anchored_) held_ = held;
          more = next().type() != YAML_SEQUENCE_END_EVENT;
        }
      } catch (...) {
        batch.error = std::current_exception();
        more = false;
      }
      std::swap(arena_, *batch.arena);
      if (anchored_) {  // an alias may ask for some of it later
        kept_.push_back(std::move(batch.arena));
        batch.arena = nullptr;
      }
      return batch;
    });
    while (const auto batch = batches.next()) {
      for (const Node* item : batch->items) section.item(Value(*item, list, index++));
      if (batch->error) std::rethrow_exception(batch->error);
    }
  }

  static constexpr size_t kAlone = 256;  // items of a list: fewer are not worth a thread
  static constexpr size_t kBatchItems = 64, kBatchValues = 8192, kBatches = 2;

  Source& source_;
  const Limits limits_;
  yaml_parser_t parser_{};
  Event event_;
  uint64_t offset_ = 0;
  bool too_long_ = false;
  std::optional<Error> failure_;
  Arena arena_;
  std::vector<std::unique_ptr<Arena>> kept_;  // with anchors, of batches
  size_t values_ = 0, held_ = 0;
  std::vector<Mark> open_;                                   // lists and maps, the innermost last
  std::map<std::string, const Node*, std::less<>> anchors_;  // null: it is being read
  bool anchored_ = false;
  bool directives_ = false;
};

Result<size_t> TextSource::read(uint64_t offset, std::span<char> into) {
  const size_t size = offset < text_.size() ? std::min(into.size(), text_.size() - static_cast<size_t>(offset)) : 0;
  if (size > 0) std::memcpy(into.data(), text_.data() + offset, size);
  return size;
}

Reader::Reader(Source& source, const Limits& limits) : impl_(std::make_unique<Impl>(source, limits)) {}
Reader::~Reader() = default;
Value Reader::whole() { return impl_->whole(); }
void Reader::sections(std::span<const Section> known, std::string_view empty) { impl_->sections(known, empty); }
Reader::Seen Reader::seen() const { return impl_->seen(); }

std::unexpected<Error> refused(std::string_view name, const Refusal& refusal) {
  return fail(Fault::kInvalidInput, fmt::format("{}:{}:{}: {}", name, refusal.mark.line, refusal.mark.column, refusal.text));
}

}  // namespace zt::yaml
