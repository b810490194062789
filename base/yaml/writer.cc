#include "base/yaml/writer.h"

#include <yaml.h>

#include <algorithm>
#include <cassert>
#include <new>

#include "base/utf8.h"

namespace zt::yaml {
namespace {

// Would a reader take this plain scalar for a truth value, a null or a number? The rest that needs quotes libyaml sees itself.
bool reads_as_other_type(std::string_view scalar) {
  if (scalar.empty()) return true;
  for (const std::string_view word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "True", "False", "Null",
                                      "TRUE", "FALSE", "NULL", "~", ".inf", ".nan"}) {
    if (scalar == word) return true;
  }
  if (scalar.find_first_of("0123456789") == std::string_view::npos) return false;
  const bool number_like =
      scalar.find_first_not_of("0123456789.+-eExob_") == std::string_view::npos && std::ranges::count(scalar, '.') < 2;
  return number_like || scalar.find_first_not_of("0123456789:") == std::string_view::npos;
}

const yaml_char_t* bytes(std::string_view text) { return reinterpret_cast<const yaml_char_t*>(text.data()); }

}  // namespace

class Writer::Impl {
 public:
  explicit Impl(std::string& out) {
    if (yaml_emitter_initialize(&emitter_) == 0) throw std::bad_alloc();
    yaml_emitter_set_output(&emitter_, append, &out);
    yaml_emitter_set_unicode(&emitter_, 1);
    yaml_emitter_set_width(&emitter_, -1);
    yaml_event_t event;
    emit(yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING), event);
    emit(yaml_document_start_event_initialize(&event, nullptr, nullptr, nullptr, 1), event);
  }
  ~Impl() { yaml_emitter_delete(&emitter_); }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  void begin_map(std::string_view tag) {
    yaml_event_t event;
    emit(yaml_mapping_start_event_initialize(&event, nullptr, tag_text(tag), tag.empty(), YAML_BLOCK_MAPPING_STYLE), event);
  }
  void end_map() {
    yaml_event_t event;
    emit(yaml_mapping_end_event_initialize(&event), event);
  }
  void begin_list(std::string_view tag) {
    yaml_event_t event;
    emit(yaml_sequence_start_event_initialize(&event, nullptr, tag_text(tag), tag.empty(), YAML_BLOCK_SEQUENCE_STYLE), event);
  }
  void end_list() {
    yaml_event_t event;
    emit(yaml_sequence_end_event_initialize(&event), event);
  }
  void scalar(std::string_view text, std::string_view tag, yaml_scalar_style_t style) {
    yaml_event_t event;
    emit(yaml_scalar_event_initialize(&event, nullptr, tag_text(tag), bytes(text), static_cast<int>(text.size()), tag.empty(),
                                      tag.empty(), style),
         event);
  }
  void finish() {
    yaml_event_t event;
    emit(yaml_document_end_event_initialize(&event, 1), event);
    emit(yaml_stream_end_event_initialize(&event), event);
  }

 private:
  static int append(void* out, unsigned char* text, size_t size) {
    static_cast<std::string*>(out)->append(reinterpret_cast<const char*>(text), size);
    return 1;
  }
  // libyaml wants it to end in a NUL, and copies it.
  const yaml_char_t* tag_text(std::string_view tag) {
    tag_ = tag;
    return tag.empty() ? nullptr : bytes(tag_);
  }
  // What was asked for is always an event, and in order: only memory can be missing.
  void emit(int made, yaml_event_t& event) {
    if (made == 0) throw std::bad_alloc();
    if (yaml_emitter_emit(&emitter_, &event) != 0) return;
    assert(emitter_.error == YAML_MEMORY_ERROR);
    throw std::bad_alloc();
  }

  yaml_emitter_t emitter_{};
  std::string tag_;
};

Writer::Writer(std::string& out) : impl_(std::make_unique<Impl>(out)) {}
Writer::~Writer() = default;
void Writer::begin_map(std::string_view tag) { impl_->begin_map(tag); }
void Writer::end_map() { impl_->end_map(); }
void Writer::begin_list(std::string_view tag) { impl_->begin_list(tag); }
void Writer::end_list() { impl_->end_list(); }
void Writer::plain(std::string_view text, std::string_view tag) { impl_->scalar(text, tag, YAML_PLAIN_SCALAR_STYLE); }
void Writer::finish() { impl_->finish(); }

void Writer::string(std::string_view text, std::string_view tag) {
  const auto style = reads_as_other_type(text) ? YAML_SINGLE_QUOTED_SCALAR_STYLE : YAML_ANY_SCALAR_STYLE;
  impl_->scalar(valid_utf8(text, "\ufffd"), tag, style);
}

}  // namespace zt::yaml
