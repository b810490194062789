// Does the time of AES-GCM tell anything about what is secret? Welch's t-test over two classes of calls in random order, as
// Reparaz, Balasch and Verbauwhede do it ("Dude, is my code constant time?"): if |t| stays small, however many calls are
// measured, no difference can be seen. Three questions of each backend:
//   tag      opening with a tag whose first byte is wrong, against one whose last byte is
//   content  sealing zeros, against sealing random bytes
//   key      sealing under a key of zeros, against sealing under a random one
//   aead_timing_bench [seconds for each figure]
// Ends with status 1 if |t| > 10 in three runs out of three: on a shared machine a single run proves nothing.
#include <fmt/format.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>
#include <vector>

#include "hbone/tls/aead.h"

using namespace zt::hbone;

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kBytes = 256;
constexpr size_t kBatch = 20'000;  // calls between two looks at the clock
constexpr double kLimit = 10;

// Mean and variance of one class, one value at a time (Welford).
struct Moments {
  double count = 0, mean = 0, squares = 0;
  void add(double value) {
    const double delta = value - mean;
    mean += delta / ++count;
    squares += delta * (value - mean);
  }
};

double welch(const Moments& a, const Moments& b) {
  return (a.mean - b.mean) / std::sqrt(a.squares / (a.count - 1) / a.count + b.squares / (b.count - 1) / b.count);
}

uint64_t ticks() {
#if defined(__x86_64__)
  unsigned core = 0;
  return __rdtscp(&core);
#else
  return static_cast<uint64_t>(Clock::now().time_since_epoch().count());
#endif
}

struct Question {
  std::function<void(bool)> prepare;  // for a call of the first or the second class; not timed
  std::function<void()> call;
};

double measure(const Question& question, double seconds) {
  std::mt19937_64 random(std::random_device{}());
  std::array<Moments, 2> moments;
  std::vector<std::pair<bool, double>> batch(kBatch);
  double cut = 0;  // interrupts: what is slower than nine tenths of the first batch says nothing
  for (const auto end = Clock::now() + std::chrono::duration<double>(seconds); Clock::now() < end;) {
    for (auto& [second, cycles] : batch) {
      second = (random() & 1) != 0;
      question.prepare(second);
      const uint64_t begin = ticks();
      question.call();
      cycles = static_cast<double>(ticks() - begin);
    }
    if (cut == 0) {
      std::vector<double> sorted;
      for (const auto& [second, cycles] : batch) sorted.push_back(cycles);
      std::ranges::nth_element(sorted, sorted.begin() + kBatch * 9 / 10);
      cut = sorted[kBatch * 9 / 10];
      continue;
    }
    for (const auto& [second, cycles] : batch)
      if (cycles <= cut) moments[second].add(cycles);
  }
  return welch(moments[0], moments[1]);
}

std::unique_ptr<AeadKey> key_of(AeadBackend backend, std::span<const uint8_t> key) {
  auto made = make_aead_key(backend, AeadAlgorithm::kAes256Gcm, key);
  if (!made) std::exit(1);
  return std::move(*made);
}

// Every call works on the same buffers, filled for it, so that only what is in them differs.
struct Bench {
  explicit Bench(AeadBackend tried) : backend(tried) {
    std::mt19937_64 random(1);
    for (uint8_t& byte : noise) byte = static_cast<uint8_t>(random());
    fresh_key(true);
    content = noise;
    seal();
    sealed = content;
    right = tag;
  }

  void prepare_open(bool last_byte) {
    content = sealed;
    tag = right;
    tag[last_byte ? kAeadTagBytes - 1 : 0] ^= 1;
  }
  void open() {
    if (key->open(nonce, {}, content, tag)) std::exit(1);
  }
  void prepare_seal(bool random_content) { content = random_content ? noise : zeros; }
  // Made anew for each call, so that keys of both classes lie in the same memory.
  void prepare_key(bool random_key) {
    fresh_key(random_key);
    content = zeros;
  }
  void fresh_key(bool random_key) {
    key.reset();
    key = key_of(backend, std::span(random_key ? noise : zeros).first(32));
  }
  void seal() {
    if (!key->seal(nonce, {}, content, tag)) std::exit(1);
  }

  AeadBackend backend;
  std::unique_ptr<AeadKey> key;
  std::array<uint8_t, kAeadNonceBytes> nonce{};
  std::array<uint8_t, kAeadTagBytes> tag{}, right{};
  std::array<uint8_t, kBytes> zeros{}, noise{}, sealed{}, content{};
};

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 2;
  bool leaks = false;
  fmt::print("{:<10}{:>10}{:>10}{:>10}   |t| of the best of three runs\n", "backend", "tag", "content", "key");
  for (const AeadBackend backend : {AeadBackend::kEvp, AeadBackend::kIpsecMb, AeadBackend::kVaes}) {
    if (!aead_backend_available(backend)) continue;
    Bench bench(backend);
    const std::array<Question, 3> questions{{{[&](bool second) { bench.prepare_open(second); }, [&] { bench.open(); }},
                                             {[&](bool second) { bench.prepare_seal(second); }, [&] { bench.seal(); }},
                                             {[&](bool second) { bench.prepare_key(second); }, [&] { bench.seal(); }}}};
    fmt::print("{:<10}", aead_backend_name(backend));
    for (const Question& question : questions) {
      double least = 1e9;
      for (int run = 0; run < 3 && least > kLimit; ++run) least = std::min(least, std::abs(measure(question, seconds)));
      fmt::print("{:>10.1f}", least);
      leaks = leaks || least > kLimit;
    }
    fmt::print("\n");
  }
  return leaks ? 1 : 0;
}
