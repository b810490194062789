#include "ztunnel/telemetry/denial_log.h"

#include <utility>

#include "ztunnel/telemetry/access_log.h"

namespace zt::ztunnel {
namespace {

using log::Field;

constexpr auto kPeriod = std::chrono::seconds(1);

void report_left_out(std::string_view source, uint64_t count) {
  const Field fields[] = {Field::bare("src.addr", source), Field::count("count", static_cast<int64_t>(count))};
  log::write_fields(access_scope, log::Level::kWarn, "connections failed", fields);
}

}  // namespace

void DenialLog::write(Clock::time_point now, const SocketAddress& source, const SocketAddress& destination,
                      std::string_view direction, std::string_view error) {
  if (!access_scope.enabled(log::Level::kWarn)) return;
  Second over;
  bool told = false;
  {
    const std::lock_guard lock(mutex_);
    over = turn_over(now);
    auto entry = second_.sources.find(source.ip);
    if (entry == second_.sources.end() && second_.sources.size() < limits_.sources)
      entry = second_.sources.emplace(source.ip, Source{}).first;
    const bool known = entry != second_.sources.end();
    told = second_.lines < limits_.lines && known && entry->second.lines < limits_.lines_per_source;
    if (told) {
      ++second_.lines;
      ++entry->second.lines;
    } else {
      ++(known ? entry->second.left_out : second_.left_out_of_others);
    }
  }
  report(over);
  if (told) log_connection_denied(source.to_string(), destination.to_string(), direction, error);
}

void DenialLog::flush(Clock::time_point now) {
  Second over;
  {
    const std::lock_guard lock(mutex_);
    over = turn_over(now);
  }
  report(over);
}

DenialLog::Second DenialLog::turn_over(Clock::time_point now) {
  if (now - second_.begun < kPeriod) return {};
  return std::exchange(second_, Second{.begun = now, .lines = 0, .left_out_of_others = 0, .sources = {}});
}

void DenialLog::report(const Second& second) {
  for (const auto& [ip, source] : second.sources)
    if (source.left_out > 0) report_left_out(ip.to_string(), source.left_out);
  if (second.left_out_of_others > 0) report_left_out("others", second.left_out_of_others);
}

}  // namespace zt::ztunnel
