// Our handshake and record layer against the openssl program, in both roles: another implementation of
// records, with padding, tickets and key updates from either side.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/pem.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdlib>
#include <filesystem>

#include "base/unique_fd.h"
#include "hbone/tls/handshake.h"
#include "tests/hbone/tls/tls_pki.h"
#include "tests/hbone/tls/tls_test_support.h"

extern char** environ;

namespace zt::hbone {
namespace {

using namespace testing;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kPatience{20};

struct TempDirectory {
  std::filesystem::path path;
  TempDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "zt-interop-XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TempDirectory() { std::filesystem::remove_all(path); }

  void write(const char* name, const std::function<int(FILE*)>& writer) const {
    FILE* const file = fopen((path / name).c_str(), "w");
    REQUIRE(file != nullptr);
    REQUIRE(writer(file) == 1);
    fclose(file);
  }
};

bool wait_readable(int fd, Clock::time_point deadline) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
  pollfd waiting{fd, POLLIN, 0};
  return left > 0 && poll(&waiting, 1, static_cast<int>(left)) == 1;
}

// `openssl <arguments>`, its standard input and outputs in our hands.
class Openssl {
 public:
  explicit Openssl(std::vector<std::string> arguments) {
    int in[2], out[2];
    REQUIRE(pipe2(in, O_CLOEXEC) == 0);
    REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    to_ = UniqueFd(in[1]);
    from_ = UniqueFd(out[0]);
    const UniqueFd child_in(in[0]), child_out(out[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, child_in.get(), 0);
    posix_spawn_file_actions_adddup2(&actions, child_out.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, child_out.get(), 2);
    arguments.insert(arguments.begin(), "openssl");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const int spawned = posix_spawnp(&pid_, "openssl", &actions, nullptr, argv.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    REQUIRE(spawned == 0);
  }
  ~Openssl() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Openssl(const Openssl&) = delete;
  Openssl& operator=(const Openssl&) = delete;

  void type(const std::string& line) { REQUIRE(write(to_.get(), line.data(), line.size()) == static_cast<ssize_t>(line.size())); }

  // Everything that it has printed, as soon as `text` is in what came since the last call.
  std::string wait_for(const std::string& text) {
    const auto deadline = Clock::now() + kPatience;
    for (;;) {
      if (const size_t at = printed_.find(text, seen_); at != std::string::npos) {
        seen_ = at + text.size();
        return printed_;
      }
      char buffer[4096];
      const ssize_t n = wait_readable(from_.get(), deadline) ? read(from_.get(), buffer, sizeof buffer) : 0;
      if (n <= 0) FAIL("openssl did not print \"" << text << "\" but:\n" << printed_);
      printed_.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  pid_t pid_ = -1;
  UniqueFd to_, from_;
  std::string printed_;
  size_t seen_ = 0;
};

UniqueFd tcp_socket() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(fd);
  return fd;
}
sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

// A connection with our TLS on it, blocking.
class Connection {
 public:
  Connection(UniqueFd fd, TlsHandshake handshake) : fd_(std::move(fd)) {
    Bytes pending;
    size_t consumed = 0;
    auto status = handshake.advance({}, consumed);
    for (;;) {
      send_all(handshake.output());
      handshake.consume_output(handshake.output().size());
      if (status == TlsHandshake::Status::kFailed) FAIL(handshake.error().text);
      if (status == TlsHandshake::Status::kDone) break;
      receive();
      status = handshake.advance(buffer_, consumed);
      buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(consumed));
    }
    auto taken = handshake.take();
    REQUIRE(taken);
    tls_.emplace(std::move(*taken));
  }

  void send(const std::string& text, size_t padding = 0) {
    Bytes record(text.size() + kRecordOverhead + padding);
    std::ranges::copy(text, record.begin() + kRecordHeader);
    REQUIRE(tls_->sealer.seal_padded_in_place(record.data(), text.size(), padding, ContentType::kApplicationData));
    send_all(record);
  }
  void send_key_update(bool request) {
    Bytes record(kKeyUpdateRecord);
    REQUIRE(tls_->sealer.seal_key_update(std::span(record).first<kKeyUpdateRecord>(), request));
    send_all(record);
  }
  void send_close() {
    Bytes record(kAlertRecord);
    REQUIRE(tls_->sealer.seal_close_notify(std::span(record).first<kAlertRecord>()));
    send_all(record);
  }

  // Reads until `text` has come, answering key updates; false at the end of the stream.
  bool wait_for(const std::string& text) {
    for (;;) {
      if (const size_t at = received_.find(text); at != std::string::npos) {
        received_.erase(0, at + text.size());
        return true;
      }
      if (closed_) return false;
      open_records();
      if (received_.find(text) == std::string::npos && !closed_) receive();
    }
  }
  void wait_for_update(size_t count) {
    for (open_records(); updates_ < count; open_records()) receive();
  }
  bool wait_for_close() { return !wait_for("\x01 this never comes"); }

  TlsEstablished& tls() { return *tls_; }
  [[nodiscard]] size_t updates() const { return updates_; }

 private:
  void open_records() {
    size_t used = 0;
    for (;;) {
      const auto opened = tls_->opener.open(std::span(buffer_).subspan(used));
      if (!opened) FAIL(opened.error().text);
      used += opened->consumed;
      if (opened->kind == OpenedRecord::Kind::kClosed) closed_ = true;
      if (opened->kind == OpenedRecord::Kind::kClosed || opened->kind == OpenedRecord::Kind::kIncomplete) break;
      received_.append(opened->data.begin(), opened->data.end());
      if (opened->kind == OpenedRecord::Kind::kControl && tls_->opener.export_state().sequence == 0) ++updates_;
    }
    buffer_.erase(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(used));
    if (tls_->opener.key_update_due()) {
      send_key_update(false);
      tls_->opener.key_update_answered();
    }
  }
  void send_all(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      REQUIRE(n > 0);
      bytes = bytes.subspan(static_cast<size_t>(n));
    }
  }
  void receive() {
    if (!wait_readable(fd_.get(), Clock::now() + kPatience)) FAIL("nothing comes any more; got: " << received_);
    Bytes chunk(65536);
    const ssize_t n = recv(fd_.get(), chunk.data(), chunk.size(), 0);
    if (n <= 0) FAIL("the stream ended without close_notify");
    buffer_.insert(buffer_.end(), chunk.begin(), chunk.begin() + n);
  }

  UniqueFd fd_;
  std::optional<TlsEstablished> tls_;
  Bytes buffer_;
  std::string received_;
  size_t updates_ = 0;
  bool closed_ = false;
};

struct Party {
  Certificate root = make_root(), ours = make_leaf(root, id_of("ours")), theirs = make_leaf(root, id_of("theirs"));
  TempDirectory directory;

  Party() {
    directory.write("root.pem", [&](FILE* file) { return PEM_write_X509(file, root.x509.get()); });
    directory.write("cert.pem", [&](FILE* file) { return PEM_write_X509(file, theirs.x509.get()); });
    directory.write("key.pem", [&](FILE* file) {
      return PEM_write_PrivateKey(file, theirs.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
    });
  }
  [[nodiscard]] std::string file(const char* name) const { return (directory.path / name).string(); }
  [[nodiscard]] std::vector<std::string> arguments(const char* command, std::vector<std::string> more) const {
    std::vector<std::string> all{command,          "-tls1_3", "-alpn",         "h2",      "-cert",
                                 file("cert.pem"), "-key",    file("key.pem"), "-CAfile", file("root.pem")};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

// s_client connects to us.
struct AsServer {
  static constexpr bool kPeerIsServer = false;
  Party party;
  UniqueFd listener = tcp_socket();
  std::optional<Openssl> peer;
  std::optional<Connection> connection;

  explicit AsServer(std::vector<std::string> more) {
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    REQUIRE(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(listen(listener.get(), 1) == 0);
    REQUIRE(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
    more.insert(more.end(), {"-connect", "127.0.0.1:" + std::to_string(ntohs(address.sin_port)), "-verify_return_error"});
    peer.emplace(party.arguments("s_client", std::move(more)));
    REQUIRE(wait_readable(listener.get(), Clock::now() + kPatience));
    UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    REQUIRE(fd);
    auto handshake = TlsHandshake::make_server(make_context(TlsRole::kServer, party.ours, party.root));
    REQUIRE(handshake);
    connection.emplace(std::move(fd), std::move(*handshake));
  }
};

// We connect to s_server.
struct AsClient {
  static constexpr bool kPeerIsServer = true;
  Party party;
  std::optional<Openssl> peer;
  std::optional<Connection> connection;

  explicit AsClient(std::vector<std::string> more) {
    more.insert(more.end(), {"-accept", "127.0.0.1:0", "-Verify", "2", "-verify_return_error"});
    peer.emplace(party.arguments("s_server", std::move(more)));
    const std::string marker = "ACCEPT 127.0.0.1:";
    peer->wait_for(marker);
    const std::string printed = peer->wait_for("\n");
    const sockaddr_in address =
        loopback(static_cast<uint16_t>(std::atoi(printed.c_str() + printed.find(marker) + marker.size())));
    UniqueFd fd = tcp_socket();
    REQUIRE(connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    auto handshake = TlsHandshake::make_client(make_context(TlsRole::kClient, party.ours, party.root), {id_of("theirs")});
    REQUIRE(handshake);
    connection.emplace(std::move(fd), std::move(*handshake));
  }
};

// The same conversation whoever called: text, key updates of three kinds from them and of two from us, a big
// piece, the end.
template <class Side>
void converse(Side& side) {
  Openssl& peer = *side.peer;
  Connection& ours = *side.connection;
  CHECK(ours.tls().peer == id_of("theirs"));
  peer.type("good morning\n");
  CHECK(ours.wait_for("good morning\n"));
  ours.send("and to you\n");
  peer.wait_for("and to you");

  // They change their key, and ask for ours (K) or do not (k).
  size_t updates = ours.updates();
  for (const char* const command : {"K\n", "k\n", "K\n"}) {
    peer.type(command);
    if constexpr (Side::kPeerIsServer) {
      ours.wait_for_update(++updates);  // s_server sends it at once and prints nothing
    } else {
      peer.wait_for("KEYUPDATE");  // it goes out with the next data
      ++updates;
    }
    peer.type("under a new key\n");
    CHECK(ours.wait_for("under a new key\n"));
    CHECK(ours.updates() == updates);
    ours.send("heard you\n");
    peer.wait_for("heard you");
  }
  // We change ours, then ask for theirs.
  for (const bool request : {false, true}) {
    ours.send_key_update(request);
    ours.send("our new key\n", 77);
    peer.wait_for("our new key");
    peer.type("understood\n");
    CHECK(ours.wait_for("understood\n"));
    if (request) ++updates;
    CHECK(ours.updates() == updates);
  }
  // Full records.
  std::string big(kMaxPlaintext, 'x');
  big.replace(big.size() - 8, 8, "the end\n");
  ours.send(big);
  peer.wait_for("the end");

  // Both directions go on from their exported state.
  auto sealer = RecordSealer::make(ours.tls().sealer.export_state());
  auto opener = RecordOpener::make(ours.tls().opener.export_state());
  REQUIRE(sealer);
  REQUIRE(opener);
  ours.tls().sealer = std::move(*sealer);
  ours.tls().opener = std::move(*opener);
  ours.send("from another process\n");
  peer.wait_for("from another process");
  peer.type("no difference\n");
  CHECK(ours.wait_for("no difference\n"));

  if constexpr (Side::kPeerIsServer) {
    ours.send_close();  // s_server answers ours; by itself it only drops the connection
  } else {
    peer.type("Q\n");
  }
  CHECK(ours.wait_for_close());
  CHECK(ours.tls().opener.finished_cleanly());
}

TEST_CASE("openssl s_client talks to our server through key updates from either side") {
  for (const char* const suite : {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}) {
    AsServer side({"-ciphersuites", suite});
    CHECK(cipher_suite_name(side.connection->tls().suite) == suite);
    converse(side);
  }
}

TEST_CASE("openssl s_server talks to our client through key updates, tickets and padding") {
  for (const char* const suite : {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"}) {
    AsClient side({"-ciphersuites", suite, "-num_tickets", "7", "-record_padding", "512"});
    CHECK(cipher_suite_name(side.connection->tls().suite) == suite);
    converse(side);
  }
}

TEST_CASE("padding of any size from openssl is taken off") {
  for (const char* const padding : {"1", "17", "4096", "16384"}) {
    // s_client has no such option before OpenSSL 3.2: the server side pads.
    AsClient side({"-record_padding", padding});
    for (int i = 0; i < 5; ++i) {
      side.peer->type("line " + std::to_string(i) + "\n");
      CHECK(side.connection->wait_for("line " + std::to_string(i) + "\n"));
    }
  }
}

}  // namespace
}  // namespace zt::hbone
