#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Metrics other than those of traffic: few series, counted from any thread with atomics. Resolving labels
// takes a lock, so code that counts often keeps the reference it got; references live as long as the family.
namespace zt::ztunnel {

class Counter {
 public:
  void add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  // For what is counted elsewhere: never falls. One thread only.
  void advance_to(uint64_t total) {
    if (total > value()) value_.store(total, std::memory_order_relaxed);
  }
  [[nodiscard]] uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

class Gauge {
 public:
  void set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void add(int64_t n) { value_.fetch_add(n, std::memory_order_relaxed); }
  [[nodiscard]] int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

class Histogram {
 public:
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds), counts_(bounds.size() + 1) {}
  void observe(double value);

 private:
  friend class HistogramFamily;
  std::span<const double> bounds_;             // ascending
  std::vector<std::atomic<uint64_t>> counts_;  // per bucket, the last is +Inf
  std::atomic<double> sum_{0};
};

struct FamilyInfo {
  std::string name;  // of a counter without "_total"
  std::string help;
  std::string unit;  // "" = none
  std::vector<std::string> labels;
};

// Something that appends itself to a scrape. Any thread.
class Family {
 public:
  explicit Family(FamilyInfo info) : info_(std::move(info)) {}
  virtual ~Family() = default;
  virtual void render(std::string& out) const = 0;
  [[nodiscard]] virtual std::string_view type() const = 0;  // as OpenMetrics has it: "counter"
  [[nodiscard]] const FamilyInfo& info() const { return info_; }

 protected:
  FamilyInfo info_;
};

// Series by label values. Beyond kMaxSeries, all others share one whose values are "overflow".
template <class Series>
class LabelledFamily : public Family {
 public:
  static constexpr size_t kMaxSeries = 2000;

  using Family::Family;
  LabelledFamily(const LabelledFamily&) = delete;
  LabelledFamily& operator=(const LabelledFamily&) = delete;

  // One value per label, in their order; "" counts as "unknown".
  Series& get(std::initializer_list<std::string_view> values = {}) { return get(std::span(values.begin(), values.size())); }
  Series& get(std::span<const std::string_view> values);

 protected:
  virtual std::unique_ptr<Series> make() const = 0;
  // For a scrape, which must not hold up who resolves labels while it writes: series are never taken away.
  [[nodiscard]] std::vector<std::pair<std::string_view, const Series*>> list() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::pair<std::string_view, const Series*>> all;
    all.reserve(series_.size());
    for (const auto& [labels, series] : series_) all.emplace_back(labels, series.get());
    return all;
  }

  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Series>, std::less<>> series_;  // by `a="x",b="y"`
};

class CounterFamily final : public LabelledFamily<Counter> {
 public:
  using LabelledFamily::LabelledFamily;
  void render(std::string& out) const override;
  [[nodiscard]] std::string_view type() const override { return "counter"; }

 private:
  std::unique_ptr<Counter> make() const override { return std::make_unique<Counter>(); }
};

class GaugeFamily final : public LabelledFamily<Gauge> {
 public:
  using LabelledFamily::LabelledFamily;
  void render(std::string& out) const override;
  [[nodiscard]] std::string_view type() const override { return "gauge"; }

 private:
  std::unique_ptr<Gauge> make() const override { return std::make_unique<Gauge>(); }
};

class HistogramFamily final : public LabelledFamily<Histogram> {
 public:
  HistogramFamily(FamilyInfo info, std::span<const double> bounds) : LabelledFamily(std::move(info)), bounds_(bounds) {}
  void render(std::string& out) const override;
  [[nodiscard]] std::string_view type() const override { return "histogram"; }

  // All series, for whoever computes quantiles of a stretch of time from two of these.
  struct Buckets {
    std::string labels;            // `a="x",b="y"`
    std::vector<uint64_t> counts;  // of each bucket alone, the last is +Inf
  };
  [[nodiscard]] std::span<const double> bounds() const { return bounds_; }
  [[nodiscard]] std::vector<Buckets> buckets() const;

 private:
  std::unique_ptr<Histogram> make() const override { return std::make_unique<Histogram>(bounds_); }
  std::span<const double> bounds_;
};

// A family whose samples are computed at the scrape. `collect` is called on any thread.
class ComputedFamily final : public Family {
 public:
  enum class Type : uint8_t { kGauge, kCounter };
  // Called per sample: label values in order, and the number.
  using Emit = std::function<void(std::initializer_list<std::string_view> values, double value)>;
  using Collect = std::function<void(const Emit& emit)>;

  ComputedFamily(FamilyInfo info, Type type, Collect collect)
      : Family(std::move(info)), type_(type), collect_(std::move(collect)) {}
  void render(std::string& out) const override;
  [[nodiscard]] std::string_view type() const override { return type_ == Type::kCounter ? "counter" : "gauge"; }

 private:
  Type type_;
  Collect collect_;
};

}  // namespace zt::ztunnel
