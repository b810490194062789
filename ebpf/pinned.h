#pragma once
#include <bpf/libbpf.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

// Links, programs and maps of the kernel that are pinned in a bpf file system.
namespace zt::redirection {

// kNotFound: nothing is pinned there.
Result<UniqueFd> pinned(const std::string& path);
// Pins at `path` in place of what may be pinned there, without a moment in which neither is attached, and lets go of the link: the pin
// holds it. Null: attaching has failed, for the reason in errno.
Result<> pin_link(bpf_link* link, const std::string& path, std::string_view what);

// The maps that the link's program uses. Needs CAP_SYS_ADMIN.
Result<std::vector<UniqueFd>> maps_of(const UniqueFd& link);
// Lets the link run the program, if it runs other instructions; there is no moment in which it runs none.
Result<> run_by(const UniqueFd& link, const bpf_program& program, std::string_view what);

// From here on the words of libbpf are kept for the error: the verifier's refusal is at their end.
void keep_words();
std::unexpected<Error> refused(std::string_view what, int error);

}  // namespace zt::redirection
