#include "base/log_filter.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>

#include "base/text.h"

namespace zt::log {
namespace {

constexpr std::array<std::string_view, 6> kNames{"off", "error", "warn", "info", "debug", "trace"};

std::optional<Level> parse_level(std::string_view text) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (equals_ignoring_case(text, kNames[i])) return static_cast<Level>(i);
  }
  return std::nullopt;
}

bool is_target(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == ':' ||
           c == '.';
  });
}

// `directive` names `target` itself or a module above it: "proxy" covers "proxy::inbound" but not
// "proxyfactory".
bool covers(std::string_view directive, std::string_view target) {
  return target.starts_with(directive) &&
         (target.size() == directive.size() || target.substr(directive.size()).starts_with("::"));
}

// Where a clause divides into target and level: at the first '=', else (istioctl's form) at the last single
// ':', because module paths contain "::".
size_t divider(std::string_view clause) {
  const auto equals = clause.find('=');
  if (equals != std::string_view::npos) return equals;
  const auto colon = clause.rfind(':');
  if (colon == std::string_view::npos || (colon > 0 && clause[colon - 1] == ':')) return std::string_view::npos;
  return colon;
}

}  // namespace

std::string_view level_name(Level level) { return kNames[static_cast<size_t>(level)]; }

std::string full_target(std::string_view target) {
  if (target == "access" || target == "ztunnel") return std::string(target);
  return fmt::format("ztunnel::{}", target);
}

Result<FilterSpec> FilterSpec::parse(std::string_view spec) {
  if (spec.size() > kMaxSpecBytes) {
    return fail(Fault::kInvalidInput, fmt::format("log filter is longer than {} bytes", kMaxSpecBytes));
  }
  FilterSpec parsed;
  while (!spec.empty()) {
    const auto comma = std::min(spec.find(','), spec.size());
    const auto clause = trim(spec.substr(0, comma));
    spec.remove_prefix(std::min(comma + 1, spec.size()));
    if (clause.empty()) continue;
    const auto at = divider(clause);
    const auto target = at == std::string_view::npos ? std::string_view{} : trim(clause.substr(0, at));
    const auto level_text = at == std::string_view::npos ? clause : trim(clause.substr(at + 1));
    const auto level = parse_level(level_text);
    if (!level) {
      return fail(Fault::kInvalidInput, fmt::format("unknown log level \"{}\" in clause \"{}\"", level_text, clause));
    }
    if (at != std::string_view::npos && !is_target(target)) {
      return fail(Fault::kInvalidInput, fmt::format("bad log target \"{}\" in clause \"{}\"", target, clause));
    }
    parsed.add({std::string(target), *level});
    if (parsed.size() > kMaxDirectives) {
      return fail(Fault::kInvalidInput, fmt::format("log filter has more than {} clauses", kMaxDirectives));
    }
  }
  return parsed;
}

void FilterSpec::add(Directive directive) {
  const auto same = std::ranges::find(directives_, directive.target, &Directive::target);
  if (same != directives_.end()) {
    same->level = directive.level;
    return;
  }
  const auto position =
      std::ranges::find_if(directives_, [&](const Directive& other) { return other.target.size() < directive.target.size(); });
  directives_.insert(position, std::move(directive));
}

void FilterSpec::merge(const FilterSpec& later) {
  for (const auto& directive : later.directives_) add(directive);
}

Level FilterSpec::level_for(std::string_view target) const {
  const std::string full = full_target(target);
  for (const auto& directive : directives_) {
    if (directive.target.empty() || covers(directive.target, full) || covers(directive.target, target)) {
      return directive.level;
    }
  }
  return Level::kOff;
}

std::string FilterSpec::to_string() const {
  std::string text;
  for (const auto& [target, level] : directives_) {
    if (!text.empty()) text += ',';
    if (!target.empty()) text.append(target).append("=");
    text += level_name(level);
  }
  return text;
}

}  // namespace zt::log
