#include <absl/debugging/symbolize.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <map>
#include <string_view>
#include <unordered_map>

#include "base/linux/cpu_profiler.h"

namespace zt {
namespace {

// As much of protobuf's encoding as profile.proto needs.
class Message {
 public:
  void number(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void bytes(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    text_ += value;
  }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

struct Mapping {
  uintptr_t start = 0, end = 0, offset = 0;
  std::string file;
};

std::vector<Mapping> executable_mappings() {
  std::vector<Mapping> mappings;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    Mapping mapping;
    std::array<char, 5> access{};
    int at = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " %4s %" SCNxPTR " %*s %*s %n", &mapping.start, &mapping.end,
                    access.data(), &mapping.offset, &at) < 4 ||
        access[2] != 'x')
      continue;
    mapping.file = line.substr(std::min(static_cast<size_t>(at), line.size()));
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

// The table of strings and those of what is numbered: mappings, functions, locations.
class Encoder {
 public:
  Encoder() { string(""); }

  std::string encode(const CpuProfile& profile) {
    for (const auto& [type, unit] : {std::pair("samples", "count"), std::pair("cpu", "nanoseconds")})
      out_.bytes(1, value_type(type, unit));
    const auto period = static_cast<uint64_t>(profile.period.count());
    for (const auto& sample : profile.samples) {
      Message locations, values, one;
      for (size_t i = 0; i < sample.stack.size(); ++i) {
        // All but the innermost are where a call returns to.
        locations.varint(location(sample.stack[i] - (i > 0 ? 1 : 0)));
      }
      values.varint(sample.count);
      values.varint(sample.count * period);
      one.bytes(1, locations.text());
      one.bytes(2, values.text());
      out_.bytes(2, one.text());
    }
    for (size_t i = 0; i < mappings_.size(); ++i) {
      Message mapping;
      mapping.number(1, i + 1);
      mapping.number(2, mappings_[i].start);
      mapping.number(3, mappings_[i].end);
      mapping.number(4, mappings_[i].offset);
      mapping.number(5, string(mappings_[i].file));
      out_.bytes(3, mapping.text());
    }
    out_.number(
        9, static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(profile.begun.time_since_epoch()).count()));
    out_.number(10, static_cast<uint64_t>(profile.duration.count()));
    out_.bytes(11, value_type("cpu", "nanoseconds"));
    out_.number(12, period);
    for (const auto& text : strings_) out_.bytes(6, text);
    return out_.text();
  }

 private:
  uint64_t string(const std::string& text) {
    const auto [at, added] = numbers_.emplace(text, strings_.size());
    if (added) strings_.push_back(text);
    return at->second;
  }
  std::string value_type(const std::string& type, const std::string& unit) {
    Message message;
    message.number(1, string(type));
    message.number(2, string(unit));
    return message.text();
  }
  uint64_t function(const std::string& name) {
    const auto [at, added] = functions_.emplace(name, functions_.size() + 1);
    if (!added) return at->second;
    Message message;
    message.number(1, at->second);
    message.number(2, string(name));
    message.number(3, string(name));
    out_.bytes(5, message.text());
    return at->second;
  }
  uint64_t location(uintptr_t address) {
    const auto [at, added] = locations_.emplace(address, locations_.size() + 1);
    if (!added) return at->second;
    Message message;
    message.number(1, at->second);
    for (size_t i = 0; i < mappings_.size(); ++i) {
      if (address >= mappings_[i].start && address < mappings_[i].end) message.number(2, i + 1);
    }
    message.number(3, address);
    std::array<char, 1024> name{};
    if (absl::Symbolize(reinterpret_cast<void*>(address), name.data(), static_cast<int>(name.size()))) {
      Message line;
      line.number(1, function(name.data()));
      message.bytes(4, line.text());
    }
    out_.bytes(4, message.text());
    return at->second;
  }

  Message out_;
  const std::vector<Mapping> mappings_ = executable_mappings();
  std::vector<std::string> strings_;
  std::map<std::string, uint64_t> numbers_, functions_;
  std::unordered_map<uintptr_t, uint64_t> locations_;
};

}  // namespace

std::string pprof_of(const CpuProfile& profile) {
  absl::InitializeSymbolizer("/proc/self/exe");
  return Encoder().encode(profile);
}

}  // namespace zt
