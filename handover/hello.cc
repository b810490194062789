#include "handover/hello.h"

#include <algorithm>

#include "mesh/reason.h"

namespace zt::handover {

namespace {
constexpr uint32_t kMagic = 0x5a54484f;  // "OHTZ" as bytes
constexpr size_t kMaxName = 4096;
constexpr size_t kMaxPods = 4096;
}  // namespace

SecretBytes encode(const Hello& hello) {
  Writer writer;
  writer.number(kMagic);
  writer.number(hello.lowest_format);
  writer.number(hello.highest_format);
  writer.text(hello.build);
  writer.text(hello.network);
  writer.text(hello.trust_domain);
  writer.text(hello.node);
  writer.list(hello.pods, [](Writer& to, const std::string& each) { to.text(each); });
  writer.number(hello.descriptors_free);
  return writer.take();
}

Result<Hello> decode_hello(std::span<const uint8_t> bytes) {
  Reader reader(bytes);
  uint32_t magic = 0;
  reader.number(magic);
  if (magic != kMagic) return fail(Reason::kInvalidInput, "the other process does not speak our hand-over");
  Hello hello;
  reader.number(hello.lowest_format);
  reader.number(hello.highest_format);
  reader.text(hello.build, kMaxName);
  reader.text(hello.network, kMaxName);
  reader.text(hello.trust_domain, kMaxName);
  reader.text(hello.node, kMaxName);
  reader.list(hello.pods, kMaxPods, [](Reader& from, std::string& each) { from.text(each, kMaxName); });
  reader.number(hello.descriptors_free);
  if (reader.wrong() != nullptr)
    return fail(Reason::kInvalidInput, std::string("the other process's hello cannot be read: ") + reader.wrong());
  return hello;
}

Result<uint16_t> agree(const Hello& ours, const Hello& theirs) {
  const auto differs = [](const char* what, const std::string& here, const std::string& there) {
    return fail(Reason::kInvalidInput, std::string("the other process is of another ") + what + ": " + there + ", not " + here);
  };
  if (ours.network != theirs.network) return differs("network", ours.network, theirs.network);
  if (ours.trust_domain != theirs.trust_domain) return differs("trust domain", ours.trust_domain, theirs.trust_domain);
  if (ours.node != theirs.node) return differs("node", ours.node, theirs.node);
  const uint16_t format = std::min(ours.highest_format, theirs.highest_format);
  if (format >= std::max(ours.lowest_format, theirs.lowest_format)) return format;
  const auto range = [](const Hello& of) {
    return std::to_string(of.lowest_format) + " to " + std::to_string(of.highest_format);
  };
  return fail(Reason::kInvalidInput,
              "no format is known to both: " + range(ours) + " here, " + range(theirs) + " there (" + theirs.build + ")");
}

}  // namespace zt::handover
