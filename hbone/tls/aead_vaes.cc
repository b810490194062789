// AES-GCM on 256-bit vectors: two blocks to a register (VAES for AES, VPCLMULQDQ for GHASH), for CPUs that
// have both but no AVX-512. OpenSSL 3.0 and ipsec-mb 1.3 fall back to 128-bit instructions there and reach
// less than half the speed.
// bench/aead_bench.cc, AES-128 sealed on one loaded core of a Xeon: records of 16 KiB 10.4 GB/s against EVP's 5.2, of 1 KiB
// 8.2 against 2.0, of 64 bytes 39 ns against 287. (ipsec-mb with that machine's AVX-512: 15.1, 9.9, 47 ns. It is preferred there.)
//
// How it is put together
// - Bulk: 16 blocks an iteration. AES of these and GHASH of 16 other blocks (sealing: the previous ones;
// opening:
//   the same ones before they are overwritten) do not depend on each other and are interleaved, one GHASH
//   step after each AES round, so that the execution units always have both to choose from. 16 products are
//   summed before one reduction, with the powers H^16 … H^1.
// - Tail: the last 0 … 255 bytes, the length block and E(J0) together, with one reduction. A short record is
//   nothing but a tail.
// - GHASH is in the bit-reflected domain and H·x is kept instead of H, which makes the reduction two
//   multiplications by a constant (Gueron and Kounavis, "Intel Carry-Less Multiplication Instruction and its
//   Usage for Computing the GCM Mode"). Bulk multiplies by Karatsuba: on Zen 3 a carry-less multiplication is
//   four micro-operations, the additions that save it one each.
//
// Nothing here branches or indexes by secret data: time depends on lengths only.
#include "hbone/tls/aead_backends.h"

#if ZT_HAVE_VAES_BACKEND
#include <immintrin.h>
#include <openssl/crypto.h>

#include <cstring>
#include <utility>

// Only what is defined from here on may use these instructions: of an inline function out of a header the
// linker might keep this file's copy for the whole program.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,aes,pclmul,vaes,vpclmulqdq"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,aes,pclmul,vaes,vpclmulqdq")
#endif
#define ZT_INLINE __attribute__((always_inline)) inline

namespace zt::hbone {
namespace {

constexpr size_t kBlock = 16;
constexpr size_t kVectors = 8;                   // registers of AES state in a bulk iteration
constexpr size_t kBulk = kVectors * 2 * kBlock;  // bytes of an iteration
constexpr size_t kPowers = 2 * kVectors + 1;     // a tail of 16 blocks and the length block need H^17
constexpr size_t kMaxRounds = 14;

template <size_t... kIndex>
using Indices = std::index_sequence<kIndex...>;
using BulkIndices = std::make_index_sequence<kVectors>;

// Everything that is derived from the key.
struct alignas(64) KeySchedule {
  __m256i karatsuba[kVectors / 2];     // low ^ high half of H^16 … H^1, two vectors' worth in each
  __m128i round_keys[kMaxRounds + 1];  // AES-128 uses 11
  __m128i powers[kPowers];             // H^17 … H^1
  size_t rounds;                       // 10 or 14
};

ZT_INLINE __m128i byte_swap(__m128i value) {
  return _mm_shuffle_epi8(value, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}
ZT_INLINE __m256i byte_swap(__m256i value) {
  const __m128i reverse = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm256_shuffle_epi8(value, _mm256_broadcastsi128_si256(reverse));
}
ZT_INLINE __m128i load128(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
ZT_INLINE __m256i load256(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
ZT_INLINE void store128(void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); }
ZT_INLINE void store256(void* to, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }
ZT_INLINE __m256i round_key(const KeySchedule& k, size_t round) { return _mm256_broadcastsi128_si256(k.round_keys[round]); }

// ---- GHASH ----

// lo + middle·x^64 + hi·x^128 modulo the polynomial: the low halves are folded up one after the other.
ZT_INLINE __m128i reduce(__m128i lo, __m128i middle, __m128i hi) {
  const __m128i poly = _mm_set_epi64x(static_cast<long long>(0xc200000000000000), 1);
  const __m128i folded = _mm_xor_si128(_mm_shuffle_epi32(lo, 0x4e), _mm_clmulepi64_si128(poly, lo, 0x01));
  middle = _mm_xor_si128(middle, folded);
  return _mm_xor_si128(hi, _mm_xor_si128(_mm_shuffle_epi32(middle, 0x4e), _mm_clmulepi64_si128(poly, middle, 0x01)));
}

ZT_INLINE __m128i multiply(__m128i a, __m128i b) {
  const __m128i middle = _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10));
  return reduce(_mm_clmulepi64_si128(a, b, 0x00), middle, _mm_clmulepi64_si128(a, b, 0x11));
}

ZT_INLINE __m128i fold_lanes(__m256i value) {
  return _mm_xor_si128(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
}

// A sum of products that has not been reduced yet.
struct Sum {
  __m256i lo{}, middle{}, hi{};
};

// Adds blocks 2·kIndex and 2·kIndex+1 of the bulk that starts at `data`. `hash`, the hash so far, goes into
// the very first block.
template <size_t kIndex>
ZT_INLINE void add_bulk(const KeySchedule& k, Sum& sum, const uint8_t* data, __m128i hash) {
  __m256i blocks = byte_swap(load256(data + 32 * kIndex));
  if constexpr (kIndex == 0) blocks = _mm256_xor_si256(blocks, _mm256_zextsi128_si256(hash));
  const __m256i power = load256(&k.powers[kPowers - 2 * kVectors + 2 * kIndex]);
  const __m256i halves = _mm256_xor_si256(blocks, _mm256_shuffle_epi32(blocks, 0x4e));
  sum.lo = _mm256_xor_si256(sum.lo, _mm256_clmulepi64_epi128(blocks, power, 0x00));
  sum.hi = _mm256_xor_si256(sum.hi, _mm256_clmulepi64_epi128(blocks, power, 0x11));
  constexpr int kHalf = kIndex % 2 == 0 ? 0x00 : 0x10;
  sum.middle = _mm256_xor_si256(sum.middle, _mm256_clmulepi64_epi128(halves, k.karatsuba[kIndex / 2], kHalf));
}

// Karatsuba's middle has lo and hi in it still.
ZT_INLINE __m128i reduce_bulk(const Sum& sum) {
  const __m128i lo = fold_lanes(sum.lo), hi = fold_lanes(sum.hi), middle = fold_lanes(sum.middle);
  return reduce(lo, _mm_xor_si128(middle, _mm_xor_si128(lo, hi)), hi);
}

template <size_t... kIndex>
ZT_INLINE __m128i hash_bulk(const KeySchedule& k, const uint8_t* data, __m128i hash, Indices<kIndex...>) {
  Sum sum;
  (add_bulk<kIndex>(k, sum, data, hash), ...);
  return reduce_bulk(sum);
}

// ---- bulk ----

// Counters are kept as numbers, the 32-bit counter being the lowest word of each lane.
template <size_t kIndex>
ZT_INLINE __m256i counter_blocks(__m256i counter) {
  constexpr int kAdd = 2 * kIndex;
  return byte_swap(_mm256_add_epi32(counter, _mm256_set_epi32(0, 0, 0, kAdd, 0, 0, 0, kAdd)));
}

// {counter, counter + 1}
ZT_INLINE __m256i counter_pair(__m128i counter) {
  return _mm256_add_epi32(_mm256_broadcastsi128_si256(counter), _mm256_set_epi32(0, 0, 0, 1, 0, 0, 0, 0));
}

ZT_INLINE __m256i next_bulk(__m256i counter) {
  constexpr int kAdd = 2 * kVectors;
  return _mm256_add_epi32(counter, _mm256_set_epi32(0, 0, 0, kAdd, 0, 0, 0, kAdd));
}

// Keeps the compiler from moving work across: left alone, its scheduler sorts AES and GHASH apart again,
// which costs a fifth of the speed.
ZT_INLINE void pin(__m256i (&s)[kVectors], Sum& sum) {
  static_assert(kVectors == 8);
  asm volatile(""
               : "+x"(s[0]), "+x"(s[1]), "+x"(s[2]), "+x"(s[3]), "+x"(s[4]), "+x"(s[5]), "+x"(s[6]), "+x"(s[7]), "+x"(sum.lo),
                 "+x"(sum.middle), "+x"(sum.hi));
}

template <size_t... kIndex>
ZT_INLINE void aes_round(__m256i (&state)[kVectors], __m256i key, Indices<kIndex...>) {
  ((state[kIndex] = _mm256_aesenc_epi128(state[kIndex], key)), ...);
}

template <bool kHash, size_t kStep>
ZT_INLINE void round_and_hash(const KeySchedule& k, __m256i (&state)[kVectors], Sum& sum, const uint8_t* hashed, __m128i hash) {
  aes_round(state, round_key(k, kStep + 1), BulkIndices{});
  if constexpr (kHash) add_bulk<kStep>(k, sum, hashed, hash);
  pin(state, sum);
}

// Encrypts or decrypts the bulk at `data` while the one at `hashed`, ciphertext, goes into the sum.
template <size_t kRounds, bool kHash, size_t... kIndex>
ZT_INLINE void bulk_step(const KeySchedule& k, uint8_t* data, __m256i counter, Sum& sum, const uint8_t* hashed, __m128i hash,
                         Indices<kIndex...> all) {
  const __m256i first = round_key(k, 0), last = round_key(k, kRounds);
  __m256i state[kVectors];
  ((state[kIndex] = _mm256_xor_si256(counter_blocks<kIndex>(counter), first)), ...);
  (round_and_hash<kHash, kIndex>(k, state, sum, hashed, hash), ...);
  for (size_t round = kVectors + 1; round < kRounds; ++round) {
    aes_round(state, round_key(k, round), all);
    pin(state, sum);
  }
  // The data is added through the last round's key, which is one step less to wait for.
  (store256(data + 32 * kIndex, _mm256_aesenclast_epi128(state[kIndex], _mm256_xor_si256(last, load256(data + 32 * kIndex)))),
   ...);
}

// Seals `count` > 0 bulks. Counter and hash are those of the next block afterwards.
template <size_t kRounds>
__attribute__((noinline)) void seal_bulk(const KeySchedule& k, uint8_t* data, size_t count, __m128i& counter, __m128i& hash) {
  __m256i counters = counter_pair(counter);
  __m128i running = hash;
  Sum unused;
  bulk_step<kRounds, false>(k, data, counters, unused, nullptr, running, BulkIndices{});
  counters = next_bulk(counters);
  for (size_t i = 1; i < count; ++i) {
    data += kBulk;
    Sum sum;
    bulk_step<kRounds, true>(k, data, counters, sum, data - kBulk, running, BulkIndices{});
    running = reduce_bulk(sum);
    counters = next_bulk(counters);
  }
  hash = hash_bulk(k, data, running, BulkIndices{});
  counter = _mm256_castsi256_si128(counters);
}

template <size_t kRounds>
__attribute__((noinline)) void open_bulk(const KeySchedule& k, uint8_t* data, size_t count, __m128i& counter, __m128i& hash) {
  __m256i counters = counter_pair(counter);
  __m128i running = hash;
  for (size_t i = 0; i < count; ++i, data += kBulk) {
    Sum sum;
    bulk_step<kRounds, true>(k, data, counters, sum, data, running, BulkIndices{});
    running = reduce_bulk(sum);
    counters = next_bulk(counters);
  }
  hash = running;
  counter = _mm256_castsi256_si128(counters);
}

// ---- pieces of blocks ----

template <class T>
ZT_INLINE T load_number(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
template <class T>
ZT_INLINE void store_number(uint8_t* to, uint64_t value) {
  const T narrow = static_cast<T>(value);
  std::memcpy(to, &narrow, sizeof narrow);
}

// The first `size` ≤ 16 bytes, zeros above; reads nothing beyond them.
ZT_INLINE __m128i load_piece(const uint8_t* from, size_t size) {
  if (size == 16) return load128(from);
  uint64_t low = 0, high = 0;
  if (size > 8) {
    low = load_number<uint64_t>(from);
    high = load_number<uint64_t>(from + size - 8) >> (8 * (16 - size));
  } else if (size >= 4) {
    low = load_number<uint32_t>(from) | uint64_t{load_number<uint32_t>(from + size - 4)} << (8 * (size - 4));
  } else if (size > 0) {
    low = from[0] | uint64_t{from[size / 2]} << (8 * (size / 2)) | uint64_t{from[size - 1]} << (8 * (size - 1));
  }
  return _mm_set_epi64x(static_cast<long long>(high), static_cast<long long>(low));
}

ZT_INLINE void store_piece(uint8_t* to, __m128i value, size_t size) {
  if (size == 16) return store128(to, value);
  auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(value));
  if (size >= 8) {
    store_number<uint64_t>(to, low);
    to += 8;
    size -= 8;
    low = static_cast<uint64_t>(_mm_extract_epi64(value, 1));
  }
  if (size >= 4) {
    store_number<uint32_t>(to, low);
    to += 4;
    size -= 4;
    low >>= 32;
  }
  for (; size > 0; --size, low >>= 8) *to++ = static_cast<uint8_t>(low);
}

// The same for up to 32 bytes.
ZT_INLINE __m256i load_piece256(const uint8_t* from, size_t size) {
  if (size <= 16) return _mm256_zextsi128_si256(load_piece(from, size));
  return _mm256_set_m128i(load_piece(from + 16, size - 16), load128(from));
}
ZT_INLINE void store_piece256(uint8_t* to, __m256i value, size_t size) {
  if (size <= 16) return store_piece(to, _mm256_castsi256_si128(value), size);
  store128(to, _mm256_castsi256_si128(value));
  store_piece(to + 16, _mm256_extracti128_si256(value, 1), size - 16);
}
ZT_INLINE __m256i keep_bytes(__m256i value, size_t size) {
  alignas(32) static constexpr uint8_t kMask[64] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                                    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  return _mm256_and_si256(value, load256(kMask + 32 - size));
}

// ---- tail ----

// One vector of the tail, `size` = 1 … 32 bytes of it; `keys` is its key stream, `power` where its first
// block stands.
template <bool kSeal>
ZT_INLINE void tail_vector(Sum& sum, uint8_t* data, size_t size, __m256i keys, const __m128i* power, __m128i hash) {
  __m256i cipher;
  if (size >= 32) {
    const __m256i in = load256(data), out = _mm256_xor_si256(in, keys);
    store256(data, out);
    cipher = kSeal ? out : in;
  } else {
    const __m256i in = load_piece256(data, size), out = _mm256_xor_si256(in, keys);
    store_piece256(data, out, size);
    cipher = kSeal ? keep_bytes(out, size) : in;
  }
  const __m256i blocks = _mm256_xor_si256(byte_swap(cipher), _mm256_zextsi128_si256(hash));
  const __m256i powers = load256(power);
  sum.lo = _mm256_xor_si256(sum.lo, _mm256_clmulepi64_epi128(blocks, powers, 0x00));
  sum.middle = _mm256_xor_si256(sum.middle, _mm256_xor_si256(_mm256_clmulepi64_epi128(blocks, powers, 0x01),
                                                             _mm256_clmulepi64_epi128(blocks, powers, 0x10)));
  sum.hi = _mm256_xor_si256(sum.hi, _mm256_clmulepi64_epi128(blocks, powers, 0x11));
}

// What is left of the data, at most sizeof...(kIndex) vectors, then the length block; returns the tag.
// `counter` is that of the next block, `nonce` J0 as a block.
template <bool kSeal, size_t... kIndex>
ZT_INLINE __m128i tail(const KeySchedule& k, uint8_t* data, size_t size, __m128i counter, __m128i hash, __m128i lengths,
                       __m128i nonce, Indices<kIndex...>) {
  [[maybe_unused]] const __m256i counters = counter_pair(counter);
  [[maybe_unused]] __m256i state[sizeof...(kIndex) + 1];
  ((state[kIndex] = _mm256_xor_si256(counter_blocks<kIndex>(counters), round_key(k, 0))), ...);
  nonce = _mm_xor_si128(nonce, k.round_keys[0]);
  for (size_t round = 1; round < k.rounds; ++round) {
    const __m256i key = round_key(k, round);
    ((state[kIndex] = _mm256_aesenc_epi128(state[kIndex], key)), ...);
    nonce = _mm_aesenc_si128(nonce, _mm256_castsi256_si128(key));
  }
  const __m256i last = round_key(k, k.rounds);
  ((state[kIndex] = _mm256_aesenclast_epi128(state[kIndex], last)), ...);
  nonce = _mm_aesenclast_si128(nonce, _mm256_castsi256_si128(last));

  // Block j of n is multiplied by H^(n + 1 - j). An odd last block has zeros beside it, for which any power
  // does.
  Sum sum;
  const size_t blocks = (size + kBlock - 1) / kBlock;
  const __m128i* const powers = &k.powers[kPowers - 1 - blocks];
  ((kIndex * 32 < size ? tail_vector<kSeal>(sum, data + 32 * kIndex, size - 32 * kIndex, state[kIndex], powers + 2 * kIndex,
                                            kIndex == 0 ? hash : __m128i{})
                       : void()),
   ...);
  const __m128i end = size == 0 ? _mm_xor_si128(lengths, hash) : lengths;
  const __m128i power = k.powers[kPowers - 1];
  const __m128i lo = _mm_xor_si128(fold_lanes(sum.lo), _mm_clmulepi64_si128(end, power, 0x00));
  const __m128i middle = _mm_xor_si128(
      fold_lanes(sum.middle), _mm_xor_si128(_mm_clmulepi64_si128(end, power, 0x01), _mm_clmulepi64_si128(end, power, 0x10)));
  const __m128i hi = _mm_xor_si128(fold_lanes(sum.hi), _mm_clmulepi64_si128(end, power, 0x11));
  return _mm_xor_si128(byte_swap(reduce(lo, middle, hi)), nonce);
}

// ---- the whole ----

ZT_INLINE __m128i hash_aad(const KeySchedule& k, std::span<const uint8_t> aad) {
  __m128i hash = _mm_setzero_si128();
  const uint8_t* at = aad.data();
  for (size_t left = aad.size(); left > 0;) {
    const size_t piece = left < kBlock ? left : kBlock;
    hash = multiply(_mm_xor_si128(hash, byte_swap(load_piece(at, piece))), k.powers[kPowers - 1]);
    at += piece;
    left -= piece;
  }
  return hash;
}

// Encrypts or decrypts in place; the tag is over the ciphertext either way (NIST SP 800-38D §7).
template <bool kSeal>
__m128i run(const KeySchedule& k, const uint8_t* nonce, std::span<const uint8_t> aad, uint8_t* data, size_t size) {
  const __m128i front = _mm_insert_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(nonce)),
                                         static_cast<int>(load_number<uint32_t>(nonce + 8)), 2);
  const __m128i j0 = _mm_insert_epi32(front, 0x01000000, 3);
  const auto bits = [](size_t bytes) { return static_cast<long long>(bytes) * 8; };
  const __m128i lengths = _mm_set_epi64x(bits(aad.size()), bits(size));
  __m128i counter = _mm_add_epi32(byte_swap(j0), _mm_set_epi32(0, 0, 0, 1));
  __m128i hash = hash_aad(k, aad);

  if (const size_t bulks = size / kBulk; bulks > 0) {
    if constexpr (kSeal) {
      (k.rounds == 10 ? seal_bulk<10> : seal_bulk<14>)(k, data, bulks, counter, hash);
    } else {
      (k.rounds == 10 ? open_bulk<10> : open_bulk<14>)(k, data, bulks, counter, hash);
    }
    data += bulks * kBulk;
    size -= bulks * kBulk;
  }
  if (size == 0) return tail<kSeal>(k, data, size, counter, hash, lengths, j0, Indices<>{});
  if (size <= 32) return tail<kSeal>(k, data, size, counter, hash, lengths, j0, Indices<0>{});
  if (size <= 96) return tail<kSeal>(k, data, size, counter, hash, lengths, j0, Indices<0, 1, 2>{});
  return tail<kSeal>(k, data, size, counter, hash, lengths, j0, BulkIndices{});
}

// ---- key set-up (FIPS 197 §5.2) ----

// w ^ w<<32 ^ w<<64 ^ w<<96: the running sum of the four words of the previous round key.
ZT_INLINE __m128i running_sum(__m128i words) {
  words = _mm_xor_si128(words, _mm_slli_si128(words, 4));
  return _mm_xor_si128(words, _mm_slli_si128(words, 8));
}

template <int kConstant>
ZT_INLINE __m128i next_round_key(__m128i words, __m128i source) {
  return _mm_xor_si128(running_sum(words), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(source, kConstant), 0xff));
}
// The odd round keys of AES-256: no rotation, no constant.
ZT_INLINE __m128i next_odd_round_key(__m128i words, __m128i source) {
  return _mm_xor_si128(running_sum(words), _mm_shuffle_epi32(_mm_aeskeygenassist_si128(source, 0), 0xaa));
}

template <size_t... kIndex>
ZT_INLINE void expand_128(__m128i* keys, Indices<kIndex...>) {
  constexpr int kConstants[] = {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x1b, 0x36};
  ((keys[kIndex + 1] = next_round_key<kConstants[kIndex]>(keys[kIndex], keys[kIndex])), ...);
}

template <size_t... kIndex>
ZT_INLINE void expand_256(__m128i* keys, Indices<kIndex...>) {
  ((keys[2 * kIndex + 2] = next_round_key<1 << kIndex>(keys[2 * kIndex], keys[2 * kIndex + 1]),
    2 * kIndex + 3 <= kMaxRounds ? void(keys[2 * kIndex + 3] = next_odd_round_key(keys[2 * kIndex + 1], keys[2 * kIndex + 2]))
                                 : void()),
   ...);
}

ZT_INLINE __m128i encrypt_block(const KeySchedule& k, __m128i block) {
  block = _mm_xor_si128(block, k.round_keys[0]);
  for (size_t round = 1; round < k.rounds; ++round) block = _mm_aesenc_si128(block, k.round_keys[round]);
  return _mm_aesenclast_si128(block, k.round_keys[k.rounds]);
}

// H·x modulo the polynomial, bit-reflected: a shift to the left, and the polynomial if a one falls out.
ZT_INLINE __m128i times_x(__m128i h) {
  const __m128i carries = _mm_srli_epi64(h, 63);
  const __m128i fallen = _mm_sub_epi64(_mm_setzero_si128(), _mm_unpackhi_epi64(carries, carries));
  const __m128i shifted = _mm_or_si128(_mm_slli_epi64(h, 1), _mm_slli_si128(carries, 8));
  const __m128i poly = _mm_set_epi64x(static_cast<long long>(0xc200000000000000), 1);
  return _mm_xor_si128(shifted, _mm_and_si128(fallen, poly));
}

void set_up(KeySchedule& k, std::span<const uint8_t> key) {
  k.round_keys[0] = load128(key.data());
  if (key.size() == 16) {
    k.rounds = 10;
    expand_128(k.round_keys, std::make_index_sequence<10>{});
  } else {
    k.rounds = 14;
    k.round_keys[1] = load128(key.data() + 16);
    expand_256(k.round_keys, std::make_index_sequence<7>{});
  }
  const __m128i h = times_x(byte_swap(encrypt_block(k, _mm_setzero_si128())));
  k.powers[kPowers - 1] = h;
  for (size_t i = kPowers - 1; i-- > 0;) k.powers[i] = multiply(k.powers[i + 1], h);
  for (size_t i = 0; i < kVectors / 2; ++i) {
    const __m256i a = load256(&k.powers[1 + 4 * i]), b = load256(&k.powers[3 + 4 * i]);
    k.karatsuba[i] = _mm256_unpacklo_epi64(_mm256_xor_si256(a, _mm256_shuffle_epi32(a, 0x4e)),
                                           _mm256_xor_si256(b, _mm256_shuffle_epi32(b, 0x4e)));
  }
}

class VaesKey final : public AeadKey {
 public:
  explicit VaesKey(std::span<const uint8_t> key) { set_up(k_, key); }
  ~VaesKey() override { OPENSSL_cleanse(&k_, sizeof k_); }

  bool seal(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<uint8_t, kAeadTagBytes> tag) noexcept override {
    store128(tag.data(), run<true>(k_, nonce.data(), aad, data.data(), data.size()));
    return true;
  }

  bool open(std::span<const uint8_t, kAeadNonceBytes> nonce, std::span<const uint8_t> aad, std::span<uint8_t> data,
            std::span<const uint8_t, kAeadTagBytes> tag) noexcept override {
    const __m128i given = load128(tag.data());
    const __m128i difference = _mm_xor_si128(given, run<false>(k_, nonce.data(), aad, data.data(), data.size()));
    return _mm_testz_si128(difference, difference) == 1;
  }

  size_t heap_bytes() const noexcept override { return sizeof *this; }

 private:
  KeySchedule k_;
};

}  // namespace

std::unique_ptr<AeadKey> make_vaes_key(AeadAlgorithm, std::span<const uint8_t> key) { return std::make_unique<VaesKey>(key); }

}  // namespace zt::hbone

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // ZT_HAVE_VAES_BACKEND
