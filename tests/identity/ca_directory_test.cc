#include "identity/ca_directory.h"

#include <grp.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>

#include <atomic>
#include <csignal>
#include <new>

#include "mesh/reason.h"
#include "tests/identity/plugin_ca.h"
#include "tests/identity/support.h"

namespace zt::identity {
namespace {

using namespace test;
using namespace std::chrono_literals;

const WallTime kNow = wall_of(2026, 11, 23);
constexpr uid_t kNobody = 65534;

Result<std::shared_ptr<const Issuer>> open_directory(const std::string& path, WallTime now = kNow) {
  const CaDirectory directory(path);
  ZT_TRY(directory.prepare(now));
  return directory.load(now);
}

// What opening the directory says to a process without root's powers.
std::string open_as_nobody(const std::string& path) {
  Child child([&] {
    if (::geteuid() == 0 && (::setgroups(0, nullptr) != 0 || ::setgid(kNobody) != 0 || ::setuid(kNobody) != 0))
      return std::string("cannot drop privileges");
    return error_of(open_directory(path));
  });
  return child.result();
}

mode_t mode_of(const std::string& path) {
  struct stat status{};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) names.push_back(entry.path().filename());
  return names;
}

TEST_CASE("a root is made on first use, private to its owner, and found again") {
  const TempDir temp;
  const std::string path = temp.file("a/b/ca");
  const mode_t before = ::umask(0);  // the strictest mode must not depend on it
  const auto first = must(open_directory(path));
  ::umask(before);
  CHECK(mode_of(temp.file("a")) == 0700);
  CHECK(mode_of(path) == 0700);
  CHECK(names_in(path) == std::vector<std::string>{"embedded-root.pem"});
  CHECK(mode_of(path + "/embedded-root.pem") == 0600);

  const auto second = must(open_directory(path + "/"));
  CHECK(first->roots()->same_roots(*second->roots()));
  CHECK(first->not_after() == kNow + kSelfMadeRootLifetime);
}

TEST_CASE("processes that race for the first use end up with the same root") {
  constexpr int kProcesses = 8, kRounds = 10;
  void* shared = ::mmap(nullptr, sizeof(std::atomic<int>), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  REQUIRE(shared != MAP_FAILED);
  for (int round = 0; round < kRounds; ++round) {
    const TempDir temp;
    auto* ready = new (shared) std::atomic<int>(0);
    std::vector<std::unique_ptr<Child>> children;
    for (int i = 0; i < kProcesses; ++i)
      children.push_back(std::make_unique<Child>([&] {
        ready->fetch_add(1);
        while (ready->load() < kProcesses) ::sched_yield();
        const auto issuer = open_directory(temp.file("ca"));
        return issuer ? pem_of((*issuer)->certificate()) : "error: " + issuer.error().text;
      }));
    const std::string root = children.front()->result();
    CHECK_THAT(root, Catch::StartsWith("-----BEGIN CERTIFICATE-----"));
    for (const auto& child : children) CHECK(child->result() == root);
    CHECK(names_in(temp.file("ca")) == std::vector<std::string>{"embedded-root.pem"});
  }
  ::munmap(shared, sizeof(std::atomic<int>));
}

TEST_CASE("what a crash left behind does not get in the way") {
  const TempDir temp;
  write_file(temp.file(".embedded-root.pem.Ab12Cd"), "half a fi");
  CHECK(open_directory(temp.path()));
}

TEST_CASE("a damaged or expired root is refused with advice, and not replaced") {
  const TempDir temp;
  must(open_directory(temp.path()));
  const std::string file = temp.file("embedded-root.pem");
  const std::string good = read_file(file);
  struct Case {
    const char* name;
    std::string content;
    const char* error;
  };
  const std::vector<Case> cases = {
      {"empty", "", "holds no PEM certificate"},
      {"only the certificate", good.substr(0, good.find("-----BEGIN PRIVATE")), "holds no PEM private key"},
      {"cut in the key", good.substr(0, good.size() - 60), "not a readable PEM private key"},
      {"another's key", good.substr(0, good.find("-----BEGIN PRIVATE")) + key_pem(PkeyPtr(EVP_EC_gen("P-256")).get()),
       "does not belong to the certificate"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    write_file(file, c.content);
    const std::string error = error_of(open_directory(temp.path()));
    CHECK_THAT(error, Catch::StartsWith(file + ": ") && Catch::Contains(c.error) && Catch::Contains("Restore it"));
    CHECK(read_file(file) == c.content);
  }
  write_file(file, good);
  CHECK_THAT(error_of(open_directory(temp.path(), kNow + kSelfMadeRootLifetime)), Catch::Contains("has expired"));
  CHECK(open_directory(temp.path()));
}

TEST_CASE("loading makes nothing: a root that vanished is an error") {
  const TempDir temp;
  CHECK_THAT(error_of(CaDirectory(temp.path()).load(kNow)), Catch::Contains("holds no CA any more"));
  CHECK(names_in(temp.path()).empty());
}

TEST_CASE("a directory that cannot be used says why and what to do") {
  const TempDir temp;
  CHECK_THAT(error_of(open_directory("")), Catch::Contains("Set EMBEDDED_CA_DIR"));
  write_file(temp.file("file"), "");
  CHECK_THAT(error_of(open_directory(temp.file("file"))), Catch::Contains(temp.file("file") + " is not a directory"));
  CHECK_THAT(error_of(open_directory(temp.file("file/ca"))), Catch::Contains("cannot make directory"));

  ::chmod(temp.path().c_str(), 0755);  // nobody may look, not write
  CHECK_THAT(open_as_nobody(temp.file("ca")),
             Catch::Contains("cannot make directory " + temp.file("ca") + ": Permission denied (check owner"));
  std::filesystem::create_directory(temp.file("ca"));
  ::chmod(temp.file("ca").c_str(), 0555);
  if (::geteuid() == 0)
    CHECK_THAT(open_as_nobody(temp.file("ca")), Catch::Contains("cannot create a file in " + temp.file("ca")));
  ::chmod(temp.file("ca").c_str(), 0755);
  must(open_directory(temp.file("ca")));
  if (::geteuid() == 0)
    CHECK_THAT(open_as_nobody(temp.file("ca")),
               Catch::Contains("cannot read " + temp.file("ca") + "/embedded-root.pem: Permission denied"));
}

TEST_CASE("a write that fails leaves nothing behind") {
  const TempDir temp;
  Child child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100, 100};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    return error_of(open_directory(temp.path()));
  });
  CHECK_THAT(child.result(), Catch::Contains("cannot write " + temp.file("embedded-root.pem") + ": File too large"));
  CHECK(names_in(temp.path()).empty());
}

TEST_CASE("a full disk is named as such") {
  if (::geteuid() != 0) {
    WARN("needs root to mount a small tmpfs");
    return;
  }
  const TempDir temp;
  Child child([&]() -> std::string {
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", temp.path().c_str(), "tmpfs", 0, "size=4k") != 0)
      return "skipped";
    write_file(temp.file("filler"), std::string(4096, 'x'));
    return error_of(open_directory(temp.path())) + " | " + std::to_string(names_in(temp.path()).size());
  });
  if (child.result() == "skipped") {
    WARN("cannot mount here");
    return;
  }
  CHECK_THAT(child.result(), Catch::Contains("No space left on device (free some space) | 1"));
}

TEST_CASE("an issuer brought along may have any key that OpenSSL reads") {
  const auto kind = GENERATE("RSA", "P-256", "P-384", "ED25519");
  INFO(kind);
  const auto key = [&] {
    const std::string k = kind;
    return PkeyPtr(k == "RSA"       ? EVP_RSA_gen(2048)
                   : k == "ED25519" ? EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")
                                    : EVP_EC_gen(kind));
  };
  const TempDir temp;
  const PluginCa ca = PluginCa::make(key(), key());
  ca.write(temp.path());
  const auto issuer = must(open_directory(temp.path()));
  CHECK(issuer->roots()->same_roots(*bundle_of({ca.root.get()})));
  CHECK(names_in(temp.path()).size() == 4);  // no root of our own beside it

  const auto certificate = must(issuer->issue(id_of("a"), 1h, kNow));
  REQUIRE(certificate->intermediates().size() == 1);
  CHECK(X509_cmp(certificate->intermediates()[0].get(), ca.ca.get()) == 0);
}

TEST_CASE("an issuer brought along wins over a root made earlier") {
  const TempDir temp;
  must(open_directory(temp.path()));
  const PluginCa ca = PluginCa::make();
  ca.write(temp.path());
  CHECK(must(open_directory(temp.path()))->roots()->same_roots(*bundle_of({ca.root.get()})));
}

TEST_CASE("a root may sign itself, with an empty chain file, its leaves have no intermediates") {
  const TempDir temp;
  const PluginCa ca = PluginCa::make();
  write_file(temp.file("ca-cert.pem"), pem_of(ca.root.get()));
  write_file(temp.file("ca-key.pem"), key_pem(ca.root_key.get()));
  write_file(temp.file("cert-chain.pem"), "");
  write_file(temp.file("root-cert.pem"), pem_of(ca.root.get()));
  const auto issuer = must(open_directory(temp.path()));
  CHECK(must(issuer->issue(id_of("a"), 1h, kNow))->intermediates().empty());
}

TEST_CASE("an intermediate may itself be what peers trust") {
  const TempDir temp;
  const PluginCa ca = PluginCa::make();
  ca.write(temp.path());
  write_file(temp.file("root-cert.pem"), pem_of(ca.ca.get()));
  CHECK(open_directory(temp.path()));
}

TEST_CASE("every way a plug-in file can be wrong is refused with the file's name and advice") {
  const PluginCa ca = PluginCa::make(), other = PluginCa::make();
  const auto with = [](auto change) {
    CaSpec spec;
    change(spec);
    return PluginCa::make(PkeyPtr(EVP_EC_gen("P-256")), PkeyPtr(EVP_EC_gen("P-256")), spec);
  };
  const PluginCa no_ca = with([](CaSpec& s) { s.constraints = "critical,CA:FALSE"; });
  const PluginCa no_constraints = with([](CaSpec& s) { s.constraints = nullptr; });
  const PluginCa no_signing = with([](CaSpec& s) { s.usage = "critical,digitalSignature"; });
  const PluginCa expired = with([](CaSpec& s) { s.not_after = kNow; });
  const PluginCa early = with([](CaSpec& s) { s.not_before = kNow + 1s; });
  const std::string garbage = "-----BEGIN CERTIFICATE-----\nQUFB\n-----END CERTIFICATE-----\n";
  const std::string huge(kMaxPrivateFileBytes + 1, '\n');

  struct Case {
    const char* name;
    const PluginCa* ca;
    const char* file;     // to replace, and to be named
    const char* content;  // nullptr: remove it
    const char* error;
  };
  const std::string other_key = key_pem(other.ca_key.get()), other_root = pem_of(other.root.get());
  const std::vector<Case> cases = {
      {"no certificate", &ca, "ca-cert.pem", nullptr, "is missing"},
      {"no key", &ca, "ca-key.pem", nullptr, "is missing"},
      {"no chain", &ca, "cert-chain.pem", nullptr, "is missing"},
      {"no root", &ca, "root-cert.pem", nullptr, "is missing"},
      {"empty certificate", &ca, "ca-cert.pem", "", "holds no PEM certificate"},
      {"empty key", &ca, "ca-key.pem", "", "holds no PEM private key"},
      {"empty root", &ca, "root-cert.pem", "", "holds no usable certificate"},
      {"damaged certificate", &ca, "ca-cert.pem", garbage.c_str(), "not a PEM certificate"},
      {"damaged key", &ca, "ca-key.pem", "-----BEGIN EC PRIVATE KEY-----\nQUFB\n", "not a readable PEM private key"},
      {"damaged chain", &ca, "cert-chain.pem", garbage.c_str(), "certificate 1: not a PEM certificate"},
      {"damaged root", &ca, "root-cert.pem", garbage.c_str(), "holds no usable certificate"},
      {"key where a certificate belongs", &ca, "ca-cert.pem", other_key.c_str(), "holds no PEM certificate"},
      {"key where a chain belongs", &ca, "cert-chain.pem", other_key.c_str(), "holds no PEM certificate"},
      {"huge certificate", &ca, "ca-cert.pem", huge.c_str(), "larger than"},
      {"huge root", &ca, "root-cert.pem", huge.c_str(), "larger than"},
      {"another's key", &ca, "ca-key.pem", other_key.c_str(), "does not belong to the certificate"},
      {"another's root", &ca, "root-cert.pem", other_root.c_str(), ""},
      {"not a CA", &no_ca, "ca-cert.pem", "keep", "is not a CA certificate"},
      {"no constraints", &no_constraints, "ca-cert.pem", "keep", "is not a CA certificate"},
      {"may not sign", &no_signing, "ca-cert.pem", "keep", "lacks keyCertSign"},
      {"expired", &expired, "ca-cert.pem", "keep", "has expired (2026-11-23T00:00:00Z)"},
      {"not yet valid", &early, "ca-cert.pem", "keep", "is not valid before 2026-11-23T00:00:01Z"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    const TempDir temp;
    c.ca->write(temp.path());
    if (c.content == nullptr)
      ::unlink(temp.file(c.file).c_str());
    else if (std::string_view(c.content) != "keep")
      write_file(temp.file(c.file), c.content);
    const auto issuer = open_directory(temp.path());
    REQUIRE_FALSE(issuer);
    CHECK(issuer.error().reason == Reason::kInvalidInput);
    if (std::string_view(c.name) == "another's root") {  // which of chain and root is wrong nobody can tell
      CHECK_THAT(issuer.error().text, Catch::StartsWith(temp.file("cert-chain.pem")) &&
                                          Catch::Contains("does not lead to a root") && Catch::Contains("root-cert.pem"));
      continue;
    }
    CHECK_THAT(issuer.error().text, Catch::StartsWith(temp.file(c.file)) && Catch::Contains(c.error));
    CHECK(issuer.error().text.find("-----BEGIN") == std::string::npos);
  }
}

TEST_CASE("an issuer brought along as a TLS secret is taken, and no root is made beside it") {
  const TempDir temp;
  const PluginCa ca = PluginCa::make();
  ca.write_tls_secret(temp.path());
  const auto issuer = must(open_directory(temp.path()));
  CHECK(issuer->roots()->same_roots(*bundle_of({ca.root.get()})));
  CHECK(names_in(temp.path()).size() == 3);
  const auto certificate = must(issuer->issue(id_of("a"), 1h, kNow));
  REQUIRE(certificate->intermediates().size() == 1);
  CHECK(X509_cmp(certificate->intermediates()[0].get(), ca.ca.get()) == 0);
}

TEST_CASE("a TLS secret that is incomplete, wrong or beside other files is refused by name") {
  const PluginCa ca = PluginCa::make(), other = PluginCa::make();
  const TempDir temp;
  ca.write_tls_secret(temp.path());
  for (const char* name : {"tls.crt", "tls.key", "ca.crt"}) {
    INFO(name);
    ::unlink(temp.file(name).c_str());
    CHECK(error_of(open_directory(temp.path())) == temp.file(name) +
                                                       ": is missing. A CA brought along as a TLS secret needs tls.crt, tls.key "
                                                       "and ca.crt; remove all three to let one be made");
    ca.write_tls_secret(temp.path());
  }
  write_file(temp.file("tls.key"), key_pem(other.ca_key.get()));
  CHECK_THAT(error_of(open_directory(temp.path())),
             Catch::StartsWith(temp.file("tls.key")) && Catch::EndsWith("It must be the private key of tls.crt"));
  ca.write_tls_secret(temp.path());
  write_file(temp.file("ca.crt"), pem_of(other.root.get()));
  CHECK_THAT(error_of(open_directory(temp.path())), Catch::StartsWith(temp.file("tls.crt")) && Catch::EndsWith("one in ca.crt"));
  ca.write_tls_secret(temp.path());
  write_file(temp.file("root-cert.pem"), pem_of(ca.root.get()));
  CHECK_THAT(error_of(open_directory(temp.path())), Catch::StartsWith(temp.file("tls.crt") + ": is beside another CA's"));
}

TEST_CASE("an issuer that no handshake would accept is refused at the start") {
  struct Case {
    const char* name;
    PluginCa ca;
    const char* why;
  };
  CaSpec sha1;
  sha1.digest = EVP_sha1();
  const auto p256 = [] { return PkeyPtr(EVP_EC_gen("P-256")); };
  const Case cases[] = {
      {"SHA-1 signature", PluginCa::make(p256(), p256(), sha1), "signature digest algorithm too weak"},
      {"RSA of 1024 bits", PluginCa::make(p256(), PkeyPtr(EVP_RSA_gen(1024))), "key too"},
  };
  for (const Case& c : cases) {
    INFO(c.name);
    const TempDir temp;
    c.ca.write(temp.path());
    CHECK_THAT(error_of(open_directory(temp.path())), Catch::StartsWith(temp.file("cert-chain.pem")) && Catch::Contains(c.why));
  }
}

TEST_CASE("a plug-in file that is no file, or that we may not read, is refused by name") {
  const PluginCa ca = PluginCa::make();
  for (const char* name : {"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"}) {
    INFO(name);
    const TempDir temp;
    ca.write(temp.path());
    const std::string file = temp.file(name);
    ::unlink(file.c_str());
    REQUIRE(::mkfifo(file.c_str(), 0600) == 0);  // must not hang
    CHECK_THAT(error_of(open_directory(temp.path())), Catch::Contains(file + " is not a regular file"));
    ::unlink(file.c_str());
    std::filesystem::create_directory(file);
    CHECK_THAT(error_of(open_directory(temp.path())), Catch::Contains(file + " is not a regular file"));

    std::filesystem::remove_all(file);
    ca.write(temp.path());
    for (const char* each : {"ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"})
      ::chmod(temp.file(each).c_str(), 0644);
    ::chmod(temp.path().c_str(), 0755);
    ::chmod(file.c_str(), ::geteuid() == 0 ? 0600 : 0);
    CHECK_THAT(open_as_nobody(temp.path()), Catch::Contains("cannot read " + file + ": Permission denied"));
  }
}

TEST_CASE("the version of a directory changes with each of its files") {
  const TempDir temp;
  const CaDirectory directory(temp.path());
  auto last = must(directory.version());
  CHECK(last == must(directory.version()));
  for (const char* name :
       {"embedded-root.pem", "ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem", "tls.crt", "tls.key", "ca.crt"}) {
    INFO(name);
    write_file(temp.file(name), "x");
    const auto now = must(directory.version());
    CHECK(now != last);
    last = now;
  }
  write_file(temp.file("unrelated"), "x");
  CHECK(must(directory.version()) == last);
}

}  // namespace
}  // namespace zt::identity
