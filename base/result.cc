#include "base/result.h"

#include <cerrno>
#include <system_error>

namespace zt {

std::string errno_text(int error) { return std::generic_category().message(error); }

std::unexpected<Error> fail_errno(Reason reason, std::string_view what) {
  const int error = errno;
  return fail(reason, std::string(what) + ": " + errno_text(error));
}

}  // namespace zt
