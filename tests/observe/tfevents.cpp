#include <cstdint>
#include <string>
#include <string_view>

#include <catch2/catch_test_macros.hpp>

#include <contraflow/observe/tfevents.hpp>

using namespace contraflow::tfevents;

namespace {

std::string hex(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace

TEST_CASE("CRC32C gives the published check values", "[observe]") {
  STATIC_REQUIRE(crc32c("123456789") == 0xE3069283U);
  // RFC 3720, appendix B.4
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);
  CHECK(crc32c(std::string(32, '\xff')) == 0x62A8AB43U);
  CHECK(crc32c("") == 0U);
  CHECK(masked_crc32c("123456789") == 0xC78AB0E5U);
}

// The expected bytes are those the tensorboard package's own classes give for the same messages.

TEST_CASE("a record is framed by its length and two checksums", "[observe]") {
  CHECK(hex(record("abc")) == "0300000000000000b099490e6162636e57f121");
}

TEST_CASE("events have the bytes of their protocol buffers messages", "[observe]") {
  CHECK(hex(version_event(1.5).encoded()) == "09000000000000f83f1a0d627261696e2e4576656e743a32");
  CHECK(hex(restart_event(1.5, 7).encoded()) == "09000000000000f83f10073a020801");
}

TEST_CASE("summaries have the bytes of their protocol buffers messages", "[observe]") {
  const auto scalars =
      Message().message(1, scalar_value("reward/mean", 0.25)).message(1, scalar_value("z", 0));
  CHECK(hex(summary_event(1.5, 300, scalars).encoded()) ==
        "09000000000000f83f10ac022a1e0a120a0b7265776172642f6d65616e150000803e0a080a017a1500000000");

  const auto image = Message().message(1, image_value("samples", "\x89PNG\r\n\x1a\n", 3, 2));
  CHECK(hex(summary_event(1.5, 1, image).encoded()) ==
        "09000000000000f83f10012a1b0a190a0773616d706c6573220e08021003220889504e470d0a1a0a");

  const auto text = Message().message(1, text_value("note", "hello"));
  CHECK(hex(summary_event(1.5, -1, text).encoded()) ==
        "09000000000000f83f10ffffffffffffffffff012a230a210a046e6f7465420f0807120412020801420568656c"
        "6c6f4a080a060a0474657874");
}

TEST_CASE("long fields have lengths of several bytes", "[observe]") {
  const std::string field(300, 'x');
  CHECK(hex(Message().bytes(16, field).encoded()).substr(0, 10) == "8201ac0278");
}
