#include "ztunnel/admin/http_compress.h"

#include <brotli/decode.h>
#include <zlib.h>
#include <zstd.h>

#include <catch2/catch.hpp>

using namespace zt::ztunnel;

namespace {

std::string inflated(const std::string& packed, size_t most, bool gzip) {
  std::string out(most + 1, '\0');
  z_stream stream{};
  inflateInit2(&stream, gzip ? 15 + 16 : 15);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  CHECK(inflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  inflateEnd(&stream);
  return out;
}

std::string unpacked(std::string_view coding, const std::string& packed, size_t most) {
  if (coding == "gzip" || coding == "deflate") return inflated(packed, most, coding == "gzip");
  std::string out(most + 1, '\0');
  if (coding == "br") {
    size_t size = out.size();
    CHECK(BrotliDecoderDecompress(packed.size(), reinterpret_cast<const uint8_t*>(packed.data()), &size,
                                  reinterpret_cast<uint8_t*>(out.data())) == BROTLI_DECODER_RESULT_SUCCESS);
    out.resize(size);
    return out;
  }
  ZSTD_DCtx* const context = ZSTD_createDCtx();
  ZSTD_outBuffer output{out.data(), out.size(), 0};
  ZSTD_inBuffer input{packed.data(), packed.size(), 0};
  CHECK(ZSTD_decompressStream(context, &output, &input) == 0);
  CHECK(input.pos == input.size);
  ZSTD_freeDCtx(context);
  out.resize(output.pos);
  return out;
}

}  // namespace

TEST_CASE("what is compressed in pieces is one stream that the coding's own library reads") {
  const auto coding = GENERATE(as<std::string>{}, "zstd", "gzip", "br", "deflate");
  INFO(coding);
  for (const size_t pieces : {size_t{0}, size_t{1}, size_t{40}}) {
    std::string plain;
    size_t left = pieces;
    HttpResponse response;
    HttpRequest request;
    request.accept_encoding = coding;
    answer_in_pieces(response, request, [&](std::string& out) {
      if (left == 0) return false;
      std::string piece;
      for (size_t i = 0; i < 5000; ++i) piece += "line " + std::to_string((i + left) * 7919 % 977) + "\n";
      out += piece;
      plain += piece;
      return --left > 0;
    });
    std::string packed;
    while (response.more(packed)) {
    }
    CHECK(response.headers ==
          std::vector<std::pair<std::string, std::string>>{{"vary", "accept-encoding"}, {"content-encoding", coding}});
    CHECK(packed.size() <= plain.size() / 2 + 64);
    CHECK(unpacked(coding, packed, plain.size()) == plain);
  }
}

TEST_CASE("of the codings that a client takes it gets the one that it likes best") {
  CHECK(choose_coding("").empty());
  CHECK(choose_coding("identity").empty());
  CHECK(choose_coding("gzip") == "gzip");
  CHECK(choose_coding("gzip, deflate, br, zstd") == "zstd");
  CHECK(choose_coding("gzip;q=0.9, zstd;q=0.1") == "gzip");
  CHECK(choose_coding("zstd;q=0, deflate") == "deflate");
  CHECK(choose_coding("*;q=0.1, br") == "br");
}
