#include <fcntl.h>
#include <openssl/core_names.h>

#include <future>

#include "base/log.h"
#include "base/unique_fd.h"
#include "identity/csr.h"
#include "identity/embedded_ca.h"
#include "tests/identity/manager_fixture.h"
#include "tests/identity/plugin_ca.h"
#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

// Forms in which a private key could turn up in text: its PEM lines, its number in hex and decimal, its raw
// bytes.
class KeyTraces {
 public:
  void add(EVP_PKEY* key) {
    const std::string pem = key_pem(key);
    for (size_t at = 0; at < pem.size();) {
      const size_t end = std::min(pem.find('\n', at), pem.size());
      // The algorithm's header is in the first line and the public half in the last two: those are no secret.
      if (const std::string line = pem.substr(at, end - at); line.size() == 64 && !line.starts_with("MI")) {
        traces_.push_back(line.substr(0, 24));
        break;
      }
      at = end + 1;
    }
    traces_.push_back(pem.substr(pem.find('\n') + 1, 64));
    BIGNUM* number = nullptr;
    const char* name = EVP_PKEY_is_a(key, "RSA") ? OSSL_PKEY_PARAM_RSA_D : OSSL_PKEY_PARAM_PRIV_KEY;
    REQUIRE(EVP_PKEY_get_bn_param(key, name, &number) == 1);
    for (char* text : {BN_bn2hex(number), BN_bn2dec(number)}) {
      traces_.emplace_back(text);
      OPENSSL_free(text);
    }
    std::string raw(static_cast<size_t>(BN_num_bytes(number)), '\0');
    BN_bn2bin(number, reinterpret_cast<unsigned char*>(raw.data()));
    traces_.push_back(raw);
    BN_clear_free(number);
  }
  [[nodiscard]] std::string found_in(std::string_view text) const {
    std::string lower(text);
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const std::string& trace : traces_) {
      std::string lower_trace = trace;
      std::ranges::transform(lower_trace, lower_trace.begin(),
                             [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (lower.find(lower_trace) != std::string::npos) return trace;
    }
    return {};
  }
  [[nodiscard]] size_t size() const { return traces_.size(); }

 private:
  std::vector<std::string> traces_;
};

TEST_CASE("the search for traces of a key finds them") {
  const PkeyPtr key = must(generate_p256_key());
  KeyTraces traces;
  traces.add(key.get());
  CHECK(traces.size() >= 4);
  CHECK_FALSE(traces.found_in("log\n" + key_pem(key.get())).empty());
  CHECK(traces.found_in("log").empty());
}

TEST_CASE_METHOD(ManagerFixture, "no key appears in a log line, an error, a dump or a CSR") {
  const TempDir temp;
  const std::string log_path = temp.file("log");
  const UniqueFd log_fd(::open(log_path.c_str(), O_CREAT | O_RDWR | O_APPEND | O_CLOEXEC, 0600));
  log::start(log_fd.get(), log::Format::kPlain);
  must(log::set_filter("trace"));
  KeyTraces traces;
  std::string text;  // everything that could be shown to somebody

  // Keys of CAs, whole and damaged in every file.
  const PluginCa plugin = PluginCa::make(PkeyPtr(EVP_RSA_gen(2048)), PkeyPtr(EVP_EC_gen("P-256")));
  traces.add(plugin.ca_key.get());
  traces.add(plugin.root_key.get());
  const std::string pem = key_pem(plugin.ca_key.get());
  for (const char* name : {"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem", "embedded-root.pem"}) {
    for (const std::string& content : {pem, pem.substr(0, pem.size() - 40), "x" + pem.substr(30), pem + pem}) {
      const TempDir directory;
      if (std::string_view(name) != "embedded-root.pem") plugin.write(directory.path());
      write_file(directory.file(name), content, 0644);
      text += error_of(EmbeddedCa::open({.directory = directory.path(), .wall_now = [this] { return scheduler.wall_now(); }}));
    }
  }

  // A CA at work: its own key, the keys it hands out, files that change to something useless.
  const TempDir directory;
  {
    const auto embedded =
        must(EmbeddedCa::open({.directory = directory.path(), .wall_now = [this] { return scheduler.wall_now(); }}));
    const PkeyPtr root_key = must(parse_private_key(read_file(directory.file("embedded-root.pem"))));
    traces.add(root_key.get());
    for (int i = 0; i < 2; ++i) {
      std::promise<Result<CertificatePtr>> promise;
      embedded->fetch(id_of("a"), [&](Result<CertificatePtr> result) { promise.set_value(std::move(result)); });
      const auto certificate = must(promise.get_future().get());
      traces.add(certificate->private_key());
      write_file(directory.file("embedded-root.pem"), pem);
    }
  }

  // Answers of a CA that carry keys where certificates belong, and keys that do not fit.
  const auto issued = issue(id_of("a"));
  traces.add(issued->private_key());
  const std::string own = key_pem(issued->private_key()), leaf = pem_of(issued->leaf()), root = pem_of(authority.root());
  for (const std::vector<std::string>& chain :
       {std::vector<std::string>{own, root}, {leaf, own, root}, {leaf, own + root}, {leaf, own}, {own}})
    text += error_of(WorkloadCertificate::from_pem(chain, share(issued->private_key()), id_of("b")));
  const auto request = must(make_certificate_request(id_of("a")));
  traces.add(request.key.get());
  text += request.csr_pem;

  // The manager: available, failed, expired, new roots, dumped.
  const auto a = available(id_of("a"), 1h);
  traces.add(a->private_key());
  const auto dump = [&] {
    for (const IdentityStatus& status : manager->snapshot()) {
      text += status.identity + status.state;
      if (!status.credentials.certificate) continue;
      for (const CertificateDump& row : status.credentials.certificate->dump_chain())
        text += row.pem + row.serial_number + row.valid_from + row.expiration_time;
      for (const CertificateDump& row : status.credentials.trust->dump()) text += row.pem;
    }
  };
  dump();
  next_request();
  refuse();
  scheduler.advance(2h);
  authority = TestCa(scheduler.wall_now());
  traces.add(authority.key());
  ca.requests.clear();
  next_request();
  traces.add(answer()->private_key());
  dump();

  log::stop();
  log::reset_filter();
  const std::string lines = read_file(log_path);
  CHECK(lines.find("certificate is available") != std::string::npos);  // there was something to look at
  CHECK(lines.find("skipping an entry of the root bundle") != std::string::npos);
  CHECK(traces.found_in(lines).empty());
  CHECK(traces.found_in(text).empty());
  CHECK(lines.find("PRIVATE KEY") == std::string::npos);
  CHECK(text.find("-----BEGIN PRIVATE") == std::string::npos);
  CHECK(traces.size() > 30);
}

TEST_CASE("the key file of a CA is the only file that a key is written to, and it is private") {
  const TempDir temp;
  const auto ca = must(EmbeddedCa::open({.directory = temp.path(), .wall_now = {}}));
  std::promise<Result<CertificatePtr>> promise;
  ca->fetch(id_of("a"), [&](Result<CertificatePtr> result) { promise.set_value(std::move(result)); });
  KeyTraces traces;
  traces.add(must(promise.get_future().get())->private_key());
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(temp.path())) {
    ++files;
    CHECK(traces.found_in(read_file(entry.path())).empty());  // workloads' keys stay in memory
    struct stat status{};
    REQUIRE(::stat(entry.path().c_str(), &status) == 0);
    CHECK((status.st_mode & 077) == 0);
  }
  CHECK(files == 1);
}

TEST_CASE("secret text moves without leaving a copy behind") {
  const TempDir temp;
  write_file(temp.file("key"), std::string(64, 'k'));
  SecretText text = must(read_private_file(temp.file("key")));
  const char* at = text.data();
  SecretText moved(std::move(text));
  CHECK(moved.view() == std::string(64, 'k'));
  CHECK(moved.data() == at);
  CHECK(text.view().empty());  // NOLINT(bugprone-use-after-move): that is the point
}

}  // namespace
}  // namespace zt::identity
