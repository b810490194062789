#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/cni_install/conf_list.h"
#include "base/event_loop.h"
#include "base/unique_fd.h"

namespace zt::agent {

// Keeps our CNI plugin on the node: its program in the folder of such programs, and its entry last in the configuration that the
// kubelet takes. Whoever changes either is followed: the folders are watched, and looked at again every `poll`. A node without a
// configuration is waited for. Files are replaced as a whole. Loop's thread; blocks on file I/O.
class CniInstall final : private Watcher {
 public:
  struct Options {
    std::string program;         // ours, to be copied
    std::string bin_folder;      // "/host/opt/cni/bin"
    std::string conf_folder;     // "/host/etc/cni/net.d"
    std::string conf_name = {};  // the configuration; empty: the one that the kubelet takes
    PluginEntry entry = {};
    std::chrono::milliseconds settle{100};  // after a change, for whoever writes to finish
    std::chrono::milliseconds poll{5000};
    // Between two installations at least: somebody who always puts it back otherwise would have us write without end.
    std::chrono::milliseconds pause{1000};
  };

  CniInstall(EventLoop& loop, Options options);
  ~CniInstall();
  void start();
  // Both are as they should be.
  [[nodiscard]] bool installed() const { return installed_; }
  [[nodiscard]] uint64_t installs() const { return counts_.done; }  // times that something had to be written
  struct Counts {
    uint64_t done = 0, program_failures = 0, entry_failures = 0;
  };
  [[nodiscard]] const Counts& counts() const { return counts_; }

  // Takes entry and program away, wherever entries of ours are. What it cannot, the error names; nothing there is success.
  static Result<> remove(const Options& options);

 private:
  void on_ready(uint32_t events) noexcept override;
  void watch();
  void check();
  Result<bool> install();  // true: something was written

  EventLoop& loop_;
  const Options options_;
  UniqueFd inotify_;
  Timer timer_;
  Clock::time_point next_{};
  bool installed_ = false;
  Counts counts_;
  std::string last_error_;
};

}  // namespace zt::agent
