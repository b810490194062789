#include "ztunnel/profiles.h"

#include <utility>

#include "base/log.h"
#include "ztunnel/admin/http_compress.h"

namespace zt::ztunnel {

namespace {
log::Scope kLog("admin");
}  // namespace

void Profiles::cpu(std::chrono::seconds duration, int frequency, const HttpRespond& respond) {
  if (profiler_) return respond(HttpResponse::text(503, "a CPU profile is being made already\n"));
  auto started = CpuProfiler::start(frequency);
  if (!started) return respond(HttpResponse::text(500, started.error().text + "\n"));
  profiler_ = std::move(*started);
  ZT_LOG(kLog, kInfo, "a CPU profile is being made", Field::count("seconds", duration.count()),
         Field::count("frequency", frequency));
  after_(duration, [this, respond] {
    thread_.post([profile = std::exchange(profiler_, nullptr)->stop(), respond] {
      HttpResponse response;
      response.content_type = "application/octet-stream";
      response.headers.emplace_back("content-disposition", "attachment; filename=\"profile.pb.gz\"");
      make_compressor("gzip")->add(pprof_of(profile), true, response.body);
      respond(std::move(response));
    });
  });
}

}  // namespace zt::ztunnel
