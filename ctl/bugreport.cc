#include "ctl/bugreport.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>

#include "base/file.h"
#include "ctl/check.h"
#include "ctl/commands.h"
#include "ctl/status.h"
#include "mesh/reason.h"
#include "ztunnel/explain/admin_client.h"

namespace zt::ctl {

namespace {

constexpr size_t kMostLogBytes = size_t{8} << 20;

bool sounds_secret(std::string_view name) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr std::array<std::string_view, 6> kWords{"token", "secret", "passw", "credential", "privatekey", "private_key"};
  return std::ranges::any_of(kWords, [&](std::string_view word) { return lower.contains(word); });
}

std::string or_why_not(Result<std::string> text) {
  return text ? std::move(*text) : fmt::format("could not be had: {}\n", text.error().text);
}

Result<std::string> asked(const std::string& address, std::string_view method, std::string_view target) {
  ZT_ASSIGN(ztunnel::AdminAnswer answer, ztunnel::ask_admin(address, method, target));
  return answer.status == 200 ? std::move(answer.body) : fmt::format("HTTP status {}\n{}", answer.status, answer.body);
}

std::string content(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::string machine() {
  utsname name{};
  ::uname(&name);
  std::string out = fmt::format("{} {} {} {}\n\n", name.sysname, name.release, name.version, name.machine);
  for (const char* path :
       {"/etc/os-release", "/proc/loadavg", "/proc/meminfo", "/proc/net/sockstat", "/proc/sys/net/ipv4/tcp_mem",
        "/proc/sys/fs/file-nr", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"})
    out += fmt::format("== {}\n{}\n", path, content(path));
  for (const int pid : find_proxies(0))
    for (const char* what : {"status", "limits", "cgroup"})
      out += fmt::format("== /proc/{}/{}\n{}\n", pid, what, content(fmt::format("/proc/{}/{}", pid, what)));
  return out;
}

// The end of it, from the beginning of a line.
Result<std::string> end_of(const std::string& path) {
  ZT_ASSIGN(const OpenFile file, open_file(path, SIZE_MAX, "the log"));
  const size_t begin = file.size > kMostLogBytes ? file.size - kMostLogBytes : 0;
  std::string text(file.size - begin, '\0');
  ZT_ASSIGN(const size_t read, read_at(file.fd.get(), begin, text, path));
  text.resize(read);
  const size_t line = begin == 0 ? std::string::npos : text.find('\n');
  return line == std::string::npos ? text : text.substr(line + 1);
}

void put(std::string& header, size_t at, std::string_view text) { header.replace(at, text.size(), text); }

}  // namespace

json::value without_secrets(const json::value& value) {
  if (const json::array* list = value.if_array()) {
    json::array out;
    for (const auto& each : *list) out.push_back(without_secrets(each));
    return out;
  }
  const json::object* object = value.if_object();
  if (object == nullptr) return value;
  json::object out;
  for (const auto& [name, each] : *object)
    out[name] = sounds_secret(name) && !each.is_null() ? json::value("<hidden>") : without_secrets(each);
  return out;
}

Files bugreport_files(const Options& options) {
  Files files;
  const auto dump = read_dump(options.source);
  if (dump) {
    files.emplace_back("config_dump.json", pretty(without_secrets(dump->root)));
    files.emplace_back("status.txt", status_text(status(*dump, ::time(nullptr))));
  } else {
    files.emplace_back("config_dump.txt", fmt::format("could not be had: {}\n", dump.error().text));
  }
  if (options.source.file.empty()) {
    const std::string& admin = options.source.admin;
    files.emplace_back("connections.json", or_why_not(asked(admin, "GET", "/connections")));
    files.emplace_back("log-levels.txt", or_why_not(asked(admin, "POST", "/logging")));
    files.emplace_back("metrics.txt", or_why_not(asked(options.stats, "GET", "/metrics")));
    files.emplace_back("ready.txt", or_why_not(asked(options.readiness, "GET", "/healthz/ready")));
  }
  files.emplace_back(
      "check.txt", answers_text(check(
                       {.source = options.source, .stats = options.stats, .readiness = options.readiness, .pid = options.pid})));
  files.emplace_back("machine.txt", machine());
  if (!options.log.empty()) files.emplace_back("ztunnel.log", or_why_not(end_of(options.log)));
  return files;
}

Result<std::string> tar_gz(const Files& files, int64_t time) {
  std::string tar;
  for (const auto& [name, text] : files) {
    if (name.size() > 100) return fail(Reason::kInvalidInput, fmt::format("\"{}\" is too long for a name in an archive", name));
    // POSIX ustar: numbers are octal texts; the sum is taken with blanks in its place.
    std::string header(512, '\0');
    put(header, 0, name);
    put(header, 100, "0000600");
    put(header, 108, "0000000");
    put(header, 116, "0000000");
    put(header, 124, fmt::format("{:011o}", text.size()));
    put(header, 136, fmt::format("{:011o}", time));
    put(header, 148, "        ");
    put(header, 156, "0");
    put(header, 257,
        std::string_view("ustar\0"
                         "00",
                         8));
    unsigned sum = 0;
    for (const char c : header) sum += static_cast<unsigned char>(c);
    put(header, 148, fmt::format("{:06o}", sum));
    header[154] = '\0';
    tar += header + text;
    tar.append((512 - text.size() % 512) % 512, '\0');
  }
  tar.append(1024, '\0');

  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  if (::deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return fail(Reason::kInternal, "deflateInit2");
  std::string out(::deflateBound(&stream, tar.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(tar.data());
  stream.avail_in = static_cast<uInt>(tar.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int ended = ::deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  if (ended != Z_STREAM_END) return fail(Reason::kInternal, "deflate");
  return out;
}

Result<std::string> bugreport(const Options& options) {
  const int64_t now = ::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%SZ", &parts);
  const std::string name = fmt::format("ztunnel-bugreport-{}", stamp);
  Files files = bugreport_files(options);
  std::string listed;
  for (auto& [file, text] : files) {
    listed += fmt::format("  {:<18}{}\n", file, bytes_text(text.size()));
    file = fmt::format("{}/{}", name, file);
  }
  ZT_ASSIGN(const std::string archive, tar_gz(files, now));
  const std::string path = options.to.empty() ? name + ".tar.gz" : options.to;
  ZT_TRY(replace_file(path, archive, 0600));
  return fmt::format("{} ({}):\n{}It names pods, addresses and policies of this mesh, and holds no private key and no token.\n",
                     path, bytes_text(archive.size()), listed);
}

}  // namespace zt::ctl
