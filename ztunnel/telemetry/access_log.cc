#include "ztunnel/telemetry/access_log.h"

#include <fmt/format.h>

#include <array>
#include <span>

namespace zt::ztunnel {
namespace {

using log::Field;

// Fields of one line, in order, without an allocation.
class Fields {
 public:
  void string(std::string_view key, std::string_view value) {
    if (!value.empty()) fields_[count_++] = Field::string(key, value);
  }
  void bare(std::string_view key, std::string_view value) {
    if (!value.empty()) fields_[count_++] = Field::bare(key, value);
  }
  void count(std::string_view key, uint64_t value) { fields_[count_++] = Field::count(key, static_cast<int64_t>(value)); }

  void entry(const AccessEntry& entry) {
    bare("src.addr", entry.source_address);
    string("src.workload", entry.source_workload);
    string("src.namespace", entry.source_namespace);
    string("src.identity", entry.source_identity);
    string("src.cluster", entry.source_cluster);
    bare("dst.addr", entry.destination_address);
    bare("dst.hbone_addr", entry.destination_hbone_address);
    string("dst.service", entry.destination_service);
    string("dst.workload", entry.destination_workload);
    string("dst.namespace", entry.destination_namespace);
    string("dst.identity", entry.destination_identity);
    string("dst.cluster", entry.destination_cluster);
    string("direction", entry.direction);
    string("zt.path", entry.path);
  }

  [[nodiscard]] std::span<const Field> span() const { return {fields_.data(), count_}; }

 private:
  std::array<Field, 18> fields_;
  size_t count_ = 0;
};

}  // namespace

log::Scope access_scope("access");

void log_connection_opened(const AccessEntry& entry) {
  if (!access_scope.enabled(log::Level::kDebug)) return;
  Fields fields;
  fields.entry(entry);
  log::write_fields(access_scope, log::Level::kDebug, "connection opened", fields.span());
}

void log_connection_complete(const AccessEntry& entry, const AccessResult& result) {
  const auto level = result.error.empty() ? log::Level::kInfo : log::Level::kError;
  if (!access_scope.enabled(level)) return;
  char duration[32];
  const auto* const end = fmt::format_to_n(duration, sizeof duration, "{}ms", result.duration.count()).out;
  Fields fields;
  fields.entry(entry);
  fields.count("bytes_sent", result.bytes_sent);
  fields.count("bytes_recv", result.bytes_received);
  fields.string("duration", {duration, static_cast<size_t>(end - duration)});
  fields.string("error", result.error);
  log::write_fields(access_scope, level, "connection complete", fields.span());
}

void log_connection_denied(std::string_view source_address, std::string_view destination_address, std::string_view direction,
                           std::string_view error) {
  if (!access_scope.enabled(log::Level::kWarn)) return;
  Fields fields;
  fields.bare("src.addr", source_address);
  fields.bare("dst.addr", destination_address);
  fields.string("direction", direction);
  fields.string("error", error);
  log::write_fields(access_scope, log::Level::kWarn, "connection failed", fields.span());
}

}  // namespace zt::ztunnel
