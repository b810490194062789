#pragma once
#include <memory>

#include "base/result.h"
#include "ztunnel/config/config.h"

namespace zt::ztunnel {

// What this build can do; anything else that the configuration asks for is an error at start.
inline constexpr BuildFeatures kBuildFeatures{.xds = true,
                                              .ca_client = true,
                                              .on_demand = true,
                                              .dns_proxy = true,
                                              .socks5 = true,
                                              .crl = true,
                                              .tls12 = false,
                                              .dedicated_mode = true};

// The whole proxy: makes everything that lives long, in one readable order, and runs until a signal or /quitquitquit.
class App {
 public:
  // Errors say what is wrong, where, and what to do about it.
  static Result<std::unique_ptr<App>> start(Config config);
  ~App();

  // Runs the control thread's loop; returns when drained, or when the proxy could not be started once the control
  // plane had sent its state.
  Result<> run();

 private:
  struct Impl;
  explicit App(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace zt::ztunnel
