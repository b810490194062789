#include "ztunnel/admin/http_compress.h"

#include <brotli/encode.h>
#include <zlib.h>
#include <zstd.h>

#include <array>
#include <new>
#include <utility>

#include "ztunnel/admin/http_negotiate.h"

namespace zt::ztunnel {
namespace {

constexpr size_t kBufferBytes = 64 << 10;
constexpr std::array<std::string_view, 4> kCodings{"zstd", "gzip", "br", "deflate"};

class Zlib final : public Compressor {
 public:
  explicit Zlib(bool gzip) {
    constexpr int kWindow = 15, kGzipFraming = 16;
    if (deflateInit2(&stream_, Z_BEST_SPEED, Z_DEFLATED, kWindow + (gzip ? kGzipFraming : 0), 8, Z_DEFAULT_STRATEGY) != Z_OK)
      throw std::bad_alloc();
  }
  ~Zlib() override { deflateEnd(&stream_); }
  Zlib(const Zlib&) = delete;
  Zlib& operator=(const Zlib&) = delete;

  void add(std::string_view in, bool last, std::string& out) override {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream_.avail_in = static_cast<uInt>(in.size());
    do {
      const size_t before = out.size();
      out.resize(before + kBufferBytes);
      stream_.next_out = reinterpret_cast<Bytef*>(out.data() + before);
      stream_.avail_out = kBufferBytes;
      deflate(&stream_, last ? Z_FINISH : Z_NO_FLUSH);
      out.resize(before + kBufferBytes - stream_.avail_out);
    } while (stream_.avail_out == 0);
  }

 private:
  z_stream stream_{};
};

class Zstd final : public Compressor {
 public:
  Zstd() : context_(ZSTD_createCCtx()) {
    if (context_ == nullptr) throw std::bad_alloc();
    ZSTD_CCtx_setParameter(context_, ZSTD_c_compressionLevel, 1);
  }
  ~Zstd() override { ZSTD_freeCCtx(context_); }
  Zstd(const Zstd&) = delete;
  Zstd& operator=(const Zstd&) = delete;

  void add(std::string_view in, bool last, std::string& out) override {
    ZSTD_inBuffer input{in.data(), in.size(), 0};
    size_t left = 0;
    do {
      const size_t before = out.size();
      out.resize(before + kBufferBytes);
      ZSTD_outBuffer output{out.data() + before, kBufferBytes, 0};
      left = ZSTD_compressStream2(context_, &output, &input, last ? ZSTD_e_end : ZSTD_e_continue);
      if (ZSTD_isError(left) != 0) throw std::bad_alloc();
      out.resize(before + output.pos);
    } while (last ? left != 0 : input.pos < input.size);
  }

 private:
  ZSTD_CCtx* context_;
};

class Brotli final : public Compressor {
 public:
  Brotli() : state_(BrotliEncoderCreateInstance(nullptr, nullptr, nullptr)) {
    if (state_ == nullptr) throw std::bad_alloc();
    constexpr uint32_t kFast = 1, kWindowBits = 18;
    BrotliEncoderSetParameter(state_, BROTLI_PARAM_QUALITY, kFast);
    BrotliEncoderSetParameter(state_, BROTLI_PARAM_LGWIN, kWindowBits);
  }
  ~Brotli() override { BrotliEncoderDestroyInstance(state_); }
  Brotli(const Brotli&) = delete;
  Brotli& operator=(const Brotli&) = delete;

  void add(std::string_view in, bool last, std::string& out) override {
    const auto* next_in = reinterpret_cast<const uint8_t*>(in.data());
    size_t available_in = in.size();
    do {
      const size_t before = out.size();
      out.resize(before + kBufferBytes);
      size_t room = kBufferBytes;
      auto* next_out = reinterpret_cast<uint8_t*>(out.data() + before);
      if (BrotliEncoderCompressStream(state_, last ? BROTLI_OPERATION_FINISH : BROTLI_OPERATION_PROCESS, &available_in, &next_in,
                                      &room, &next_out, nullptr) == BROTLI_FALSE)
        throw std::bad_alloc();
      out.resize(before + kBufferBytes - room);
    } while (available_in > 0 || BrotliEncoderHasMoreOutput(state_) == BROTLI_TRUE);
  }

 private:
  BrotliEncoderState* state_;
};

}  // namespace

std::string_view choose_coding(std::string_view accept_encoding) {
  std::string_view best;
  int most = 0;
  for (const std::string_view coding : kCodings) {
    if (const int quality = header_quality(accept_encoding, coding); quality > most) {
      most = quality;
      best = coding;
    }
  }
  return best;
}

std::unique_ptr<Compressor> make_compressor(std::string_view coding) {
  if (coding == "zstd") return std::make_unique<Zstd>();
  if (coding == "br") return std::make_unique<Brotli>();
  return std::make_unique<Zlib>(coding == "gzip");
}

void answer_in_pieces(HttpResponse& response, const HttpRequest& request, std::move_only_function<bool(std::string& out)> more) {
  response.headers.emplace_back("vary", "accept-encoding");
  const std::string_view coding = choose_coding(request.accept_encoding);
  if (coding.empty()) {
    response.more = std::move(more);
    return;
  }
  response.headers.emplace_back("content-encoding", coding);
  response.more = [more = std::move(more), compressor = make_compressor(coding),
                   plain = std::string()](std::string& out) mutable {
    plain.clear();
    const bool again = more(plain);
    compressor->add(plain, !again, out);
    return again;
  };
}

}  // namespace zt::ztunnel
