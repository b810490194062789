#include "ebpf/pinned.h"

#include <bpf/bpf.h>
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "mesh/reason.h"

namespace zt::redirection {

namespace {

thread_local std::string said;
int keep(libbpf_print_level level, const char* format, va_list arguments) {
  if (level == LIBBPF_DEBUG) return 0;
  std::array<char, 2048> line;
  std::vsnprintf(line.data(), line.size(), format, arguments);
  said += line.data();
  constexpr size_t kMost = 4000;
  if (said.size() > kMost) said.erase(0, said.size() - kMost);
  return 0;
}

std::string last_words() {
  while (!said.empty() && (said.back() == '\n' || said.back() == ' ')) said.pop_back();
  const auto at = said.rfind('\n');
  return said.empty() ? "" : fmt::format(" ({})", said.substr(at == std::string::npos ? 0 : at + 1));
}

Result<UniqueFd> program_of(const UniqueFd& link) {
  bpf_link_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(link.get(), &info, &size) != 0) return fail_errno(Reason::kIo, "eBPF: cannot ask about a link");
  UniqueFd program(::bpf_prog_get_fd_by_id(info.prog_id));
  if (!program) return fail_errno(Reason::kIo, "eBPF: cannot open a link's program");
  return program;
}

Result<bpf_prog_info> describe(int program) {
  bpf_prog_info info{};
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(program, &info, &size) != 0) return fail_errno(Reason::kIo, "eBPF: cannot ask about a program");
  return info;
}

}  // namespace

void keep_words() {
  ::libbpf_set_print(keep);
  said.clear();
}

std::unexpected<Error> refused(std::string_view what, int error) {
  return fail(Reason::kIo, fmt::format("eBPF: cannot {}: {}{}", what, errno_text(error), last_words()));
}

Result<UniqueFd> pinned(const std::string& path) {
  UniqueFd fd(::bpf_obj_get(path.c_str()));
  if (fd) return fd;
  return fail(errno == ENOENT ? Reason::kNotFound : Reason::kIo, fmt::format("{}: {}", path, errno_text(errno)));
}

Result<> pin_link(bpf_link* link, const std::string& path, std::string_view what) {
  if (link == nullptr) return refused(fmt::format("attach {}", what), errno);
  const std::string beside = path + "-new";
  ::unlink(beside.c_str());
  int failed = ::bpf_link__pin(link, beside.c_str());
  ::bpf_link__destroy(link);
  if (failed == 0 && ::rename(beside.c_str(), path.c_str()) != 0) failed = -errno;
  if (failed == 0) return {};
  ::unlink(beside.c_str());
  return refused(fmt::format("pin {}", what), -failed);
}

Result<std::vector<UniqueFd>> maps_of(const UniqueFd& link) {
  ZT_ASSIGN(const UniqueFd program, program_of(link));
  std::array<uint32_t, 16> ids{};
  bpf_prog_info info{};
  info.nr_map_ids = ids.size();
  info.map_ids = reinterpret_cast<uintptr_t>(ids.data());
  uint32_t size = sizeof info;
  if (::bpf_obj_get_info_by_fd(program.get(), &info, &size) != 0)
    return fail_errno(Reason::kIo, "eBPF: cannot list a program's maps");
  std::vector<UniqueFd> maps;
  for (uint32_t i = 0; i < info.nr_map_ids && i < ids.size(); ++i) {
    maps.emplace_back(::bpf_map_get_fd_by_id(ids[i]));
    if (!maps.back()) return fail_errno(Reason::kIo, "eBPF: cannot open a program's map");
  }
  return maps;
}

Result<> run_by(const UniqueFd& link, const bpf_program& program, std::string_view what) {
  ZT_ASSIGN(const UniqueFd there, program_of(link));
  ZT_ASSIGN(const bpf_prog_info has, describe(there.get()));
  ZT_ASSIGN(const bpf_prog_info wants, describe(::bpf_program__fd(&program)));
  if (std::memcmp(has.tag, wants.tag, sizeof has.tag) == 0) return {};
  if (::bpf_link_update(link.get(), ::bpf_program__fd(&program), nullptr) == 0) return {};
  return refused(fmt::format("replace {}", what), errno);
}

}  // namespace zt::redirection
