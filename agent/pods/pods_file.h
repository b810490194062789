#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "mesh/pod_name.h"
#include "redirection/redirector.h"
#include "zds/zds.h"

// The agent's list of pods, for nodes without Kubernetes:
//
//   pods:
//   - uid: 0b3f…                      # names the pod for ever; a new pod gets a new one
//     name: web-0                     # these three are the pod's identity
//     namespace: shop
//     serviceAccount: web
//     netns: /run/netns/web-0         # must exist
//     dns: false                      # optional, as are the following; redirector.h says what they mean
//     ingress: false
//     cutEstablished: false
//     virtualInterfaces: [k6t-eth0]
//
// JSON is YAML too.
namespace zt::agent {

inline constexpr size_t kMaxPodsFileBytes = 1u << 20;
inline constexpr size_t kMaxFilePods = 4096;

struct PodSpec {
  std::string uid;
  PodName info;
  std::string netns_path;
  redirection::RedirectionOptions options;
  std::string where;  // "file:line:column" of its netns, for errors found later
};

// An entry of the list that cannot be used. It costs itself and no other.
struct BadEntry {
  std::string uid;   // whose entry it is; empty: it does not say, or not in a form that a uid can have
  std::string text;  // "name:line:column: what is wrong"
};

struct PodsFile {
  std::vector<PodSpec> pods;
  std::vector<BadEntry> bad;
};

// Pure. `defaults` are the options where the file is silent.
//
// A bad entry: unknown, missing or repeated keys, wrong types, names that Kubernetes would refuse, relative paths,
// limits, a uid or path that an earlier entry has.
// The whole file is refused (kInvalidInput, text as a bad entry's) if it is not YAML, if 'pods' is not a list, and
// where what it means as a whole is in doubt: other keys, several documents, more than kMaxFilePods. An empty file
// too: half-written files are empty, and it would un-enrol every pod ("pods: []" does).
[[nodiscard]] Result<PodsFile> parse_pods(std::string_view text, const std::string& name,
                                          const redirection::RedirectionOptions& defaults);

// The same pods as a file that parse_pods() reads back.
[[nodiscard]] std::string render_pods(const std::vector<PodSpec>& specs);

// Reads the file; errors as above, or what the system said about the path.
[[nodiscard]] Result<std::string> read_pods_file(const std::string& path);

}  // namespace zt::agent
