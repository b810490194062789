#include "ztunnel/telemetry/metrics_families.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "ztunnel/telemetry/metrics_text.h"

namespace zt::ztunnel {
namespace {

std::string label_text(std::span<const std::string> names, std::span<const std::string_view> values) {
  std::string text;
  for (size_t i = 0; i < names.size(); ++i) {
    if (i > 0) text += ',';
    text.append(names[i]).append("=\"");
    append_label_value(text, i < values.size() && !values[i].empty() ? values[i] : "unknown");
    text += '"';
  }
  return text;
}

// Whole numbers without a point, others in the shortest form that reads back the same.
std::string number_text(double value) {
  if (value == std::trunc(value) && std::abs(value) < 0x1p53) return fmt::format("{}", static_cast<int64_t>(value));
  return fmt::format("{}", value);
}

// Bounds always have a point, as the peer prints them: "1.0".
std::string bound_text(double bound) {
  if (bound == std::trunc(bound)) return fmt::format("{:.1f}", bound);
  return fmt::format("{}", bound);
}

void append_sample(std::string& out, std::string_view name, std::string_view labels, std::string_view value) {
  out += name;
  if (!labels.empty()) out.append("{").append(labels).append("}");
  out.append(" ").append(value).append("\n");
}

}  // namespace

void Histogram::observe(double value) {
  const auto bucket = static_cast<size_t>(std::ranges::lower_bound(bounds_, value) - bounds_.begin());
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(value, std::memory_order_relaxed);
}

template <class Series>
Series& LabelledFamily<Series>::get(std::span<const std::string_view> values) {
  std::string text = label_text(info_.labels, values);
  const std::lock_guard lock(mutex_);
  if (const auto found = series_.find(text); found != series_.end()) return *found->second;
  if (series_.size() >= kMaxSeries) {
    const std::vector<std::string_view> overflow(info_.labels.size(), "overflow");
    text = label_text(info_.labels, overflow);
  }
  auto& series = series_[text];
  if (series == nullptr) series = make();
  return *series;
}

template class LabelledFamily<Counter>;
template class LabelledFamily<Gauge>;
template class LabelledFamily<Histogram>;

void CounterFamily::render(std::string& out) const {
  const auto series = list();
  if (series.empty()) return;
  append_family(out, info_.name, info_.help, "counter", info_.unit);
  const std::string sample = fmt::format("{}_total", info_.name);
  for (const auto& [labels, counter] : series) append_sample(out, sample, labels, fmt::format_int(counter->value()).c_str());
}

void GaugeFamily::render(std::string& out) const {
  const auto series = list();
  if (series.empty()) return;
  append_family(out, info_.name, info_.help, "gauge", info_.unit);
  for (const auto& [labels, gauge] : series) append_sample(out, info_.name, labels, fmt::format_int(gauge->value()).c_str());
}

void HistogramFamily::render(std::string& out) const {
  const auto series = list();
  if (series.empty()) return;
  append_family(out, info_.name, info_.help, "histogram", info_.unit);
  for (const auto& [labels, histogram] : series) {
    // Buckets are read once: sum of the counts and the last bucket must agree.
    std::vector<uint64_t> counts;
    uint64_t total = 0;
    for (const auto& count : histogram->counts_) counts.push_back(total += count.load(std::memory_order_relaxed));
    append_sample(out, info_.name + "_sum", labels, number_text(histogram->sum_.load(std::memory_order_relaxed)));
    append_sample(out, info_.name + "_count", labels, fmt::format_int(total).c_str());
    for (size_t i = 0; i < counts.size(); ++i) {
      const std::string bound = i < bounds_.size() ? bound_text(bounds_[i]) : "+Inf";
      append_sample(out, info_.name + "_bucket", fmt::format("le=\"{}\"{}{}", bound, labels.empty() ? "" : ",", labels),
                    fmt::format_int(counts[i]).c_str());
    }
  }
}

std::vector<HistogramFamily::Buckets> HistogramFamily::buckets() const {
  std::vector<Buckets> all;
  for (const auto& [labels, histogram] : list()) {
    Buckets& one = all.emplace_back(Buckets{std::string(labels), {}});
    for (const auto& count : histogram->counts_) one.counts.push_back(count.load(std::memory_order_relaxed));
  }
  return all;
}

void ComputedFamily::render(std::string& out) const {
  std::string samples;
  const std::string name = type_ == Type::kCounter ? fmt::format("{}_total", info_.name) : info_.name;
  collect_([&](std::initializer_list<std::string_view> values, double value) {
    append_sample(samples, name, label_text(info_.labels, std::span(values.begin(), values.size())), number_text(value));
  });
  if (samples.empty()) return;
  append_family(out, info_.name, info_.help, type_ == Type::kCounter ? "counter" : "gauge", info_.unit);
  out += samples;
}

}  // namespace zt::ztunnel
