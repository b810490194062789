#pragma once
#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <openssl/pem.h>

#include "identity/ca_client.h"
#include "identity/certificate.h"
#include "identity/issuer.h"
#include "identity/pem.h"
#include "identity/x509_info.h"

namespace zt::identity::test {

inline SpiffeId id_of(std::string account, std::string ns = "shop") {
  return {"cluster.local", std::move(ns), std::move(account)};
}

inline WallTime wall_of(int year, unsigned month, unsigned day) {
  return std::chrono::sys_days{std::chrono::year{year} / static_cast<int>(month) / static_cast<int>(day)};
}

// The value, or a failed test that shows the error.
template <class T>
T must(Result<T> result) {
  if (!result) FAIL("unexpected error: " << result.error().text);
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}

inline std::string error_of(const Result<>& result) { return result ? "(no error)" : result.error().text; }
template <class T>
std::string error_of(const Result<T>& result) {
  return result ? "(no error)" : result.error().text;
}

// An issuer in memory with a root of its own.
class TestCa {
 public:
  explicit TestCa(WallTime now) : root_(must(make_root(now))) {
    std::vector<X509Ptr> roots;
    roots.push_back(share(root_.certificate.get()));
    use_roots(must(TrustBundle::create(std::move(roots))), now);
  }
  // Hands out other roots from now on; its own root should be among them.
  void use_roots(std::shared_ptr<const TrustBundle> roots, WallTime now) {
    auto issuer = Issuer::create(share(root_.certificate.get()), share(root_.key.get()), {}, std::move(roots), now);
    if (!issuer) FAIL("issuer: " << issuer.error().text);
    issuer_ = *issuer;
  }
  CertificatePtr issue(const SpiffeId& id, std::chrono::seconds ttl, WallTime now) const {
    return must(issuer_->issue(id, ttl, now));
  }
  [[nodiscard]] X509* root() const { return root_.certificate.get(); }
  [[nodiscard]] EVP_PKEY* key() const { return root_.key.get(); }
  [[nodiscard]] const std::shared_ptr<const TrustBundle>& roots() const { return issuer_->roots(); }

 private:
  RootMaterial root_;
  std::shared_ptr<const Issuer> issuer_;
};

inline std::shared_ptr<const TrustBundle> bundle_of(std::initializer_list<X509*> roots) {
  std::vector<X509Ptr> owned;
  for (X509* root : roots) owned.push_back(share(root));
  return must(TrustBundle::create(std::move(owned)));
}

// A CA whose answers the test gives, one by one.
class FakeCa final : public CaClient {
 public:
  struct Request {
    SpiffeId id;
    Done done;
  };
  void fetch(const SpiffeId& id, Done done) override {
    ++calls;
    requests.push_back({id, std::move(done)});
  }
  // Takes the oldest open request out.
  Request take() {
    if (requests.empty()) FAIL("the CA has no open request");
    Request request = std::move(requests.front());
    requests.erase(requests.begin());
    return request;
  }
  std::vector<Request> requests;
  size_t calls = 0;
};

// Private directory, removed with everything in it.
class TempDir {
 public:
  TempDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "zt-identity-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) FAIL("mkdtemp");
    path_ = pattern;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  std::string path_;
};

inline void write_file(const std::string& path, std::string_view content, mode_t mode = 0600) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  ::chmod(path.c_str(), mode);
}
inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline std::string key_pem(EVP_PKEY* key) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long length = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<size_t>(length)};
}

// Runs fn in a child process; the text it returns is ours. Used where a test changes the process (uid,
// limits) or needs a race.
class Child {
 public:
  explicit Child(const std::function<std::string()>& fn) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) FAIL("pipe");
    pid_ = ::fork();
    if (pid_ == 0) {
      const std::string text = fn();
      for (size_t sent = 0; sent < text.size();) {
        const ssize_t n = ::write(ends[1], text.data() + sent, text.size() - sent);
        if (n <= 0) break;
        sent += static_cast<size_t>(n);
      }
      ::_exit(0);
    }
    ::close(ends[1]);
    out_ = ends[0];
  }
  ~Child() { result(); }
  Child(const Child&) = delete;
  const std::string& result() {
    if (out_ >= 0) {
      char buffer[4096];
      for (ssize_t n; (n = ::read(out_, buffer, sizeof buffer)) > 0;) text_.append(buffer, static_cast<size_t>(n));
      ::close(out_);
      out_ = -1;
      ::waitpid(pid_, nullptr, 0);
    }
    return text_;
  }

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  std::string text_;
};

}  // namespace zt::identity::test
