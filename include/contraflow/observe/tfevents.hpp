#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// @file
/// The bytes of TensorBoard's event files: records in TensorFlow's TFRecord framing, each holding
/// an `Event` message in the protocol buffers encoding.
///
/// Sources: the TFRecord description and `event.proto`, `summary.proto`, `tensor.proto` of
/// TensorFlow; the protocol buffers encoding guide; RFC 3720 appendix B.4 for CRC32C.

namespace contraflow::tfevents {

/// CRC-32C (Castagnoli) of @p bytes: reflected polynomial 0x82F63B78, start and final value all
/// ones.
constexpr std::uint32_t crc32c(std::string_view bytes) {
  constexpr auto table = [] {
    std::array<std::uint32_t, 256> remainders = {};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t remainder = i;
      for (int bit = 0; bit < 8; ++bit) {
        remainder = (remainder >> 1) ^ ((remainder & 1U) != 0 ? 0x82F63B78U : 0U);
      }
      remainders[i] = remainder;
    }
    return remainders;
  }();
  std::uint32_t crc = 0xFFFFFFFFU;
  for (const char c : bytes) {
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xFFU];
  }
  return ~crc;
}

/// The checksum a record carries: the CRC rotated right by 15, plus a constant, because the CRC of
/// a text that holds its own CRC is weak.
constexpr std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8U;
}

/// The bytes of @p value, lowest first.
template <class Unsigned>
std::string little_endian(Unsigned value) {
  std::string bytes(sizeof(Unsigned), '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(static_cast<unsigned char>(value >> (8 * i)));
  }
  return bytes;
}

/// A record: length, checksum of the length, @p data, checksum of the data.
inline std::string record(std::string_view data) {
  const std::string length = little_endian(std::uint64_t{data.size()});
  return length + little_endian(masked_crc32c(length)) + std::string(data) +
         little_endian(masked_crc32c(data));
}

/// A protocol buffers message under construction. Fields are to be added in the order of their
/// numbers, and are written also when they have their default value.
class Message {
 public:
  /// Adds a variable-length integer.
  Message& integer(std::uint32_t field, std::int64_t value) {
    key(field, 0);
    varint(static_cast<std::uint64_t>(value));
    return *this;
  }

  /// Adds a number of 64 bits.
  Message& real(std::uint32_t field, double value) {
    key(field, 1);
    bytes_ += little_endian(std::bit_cast<std::uint64_t>(value));
    return *this;
  }

  /// Adds a number of 32 bits.
  Message& real(std::uint32_t field, float value) {
    key(field, 5);
    bytes_ += little_endian(std::bit_cast<std::uint32_t>(value));
    return *this;
  }

  /// Adds bytes behind their length.
  Message& bytes(std::uint32_t field, std::string_view value) {
    key(field, 2);
    varint(value.size());
    bytes_ += value;
    return *this;
  }

  /// Adds a message.
  Message& message(std::uint32_t field, const Message& value) { return bytes(field, value.bytes_); }

  /// What has been added so far, in bytes.
  const std::string& encoded() const noexcept { return bytes_; }

 private:
  void key(std::uint32_t field, std::uint32_t wire_type) { varint((field << 3) | wire_type); }

  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>((value & 0x7F) | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

/// `Summary.Value` of a scalar. The format holds it in single precision.
inline Message scalar_value(std::string_view tag, double value) {
  return Message().bytes(1, tag).real(2, static_cast<float>(value));
}

/// `Summary.Value` of a picture, encoded as PNG.
inline Message image_value(std::string_view tag, std::string_view png, std::int64_t width,
                           std::int64_t height) {
  const Message image = Message().integer(1, height).integer(2, width).bytes(4, png);
  return Message().bytes(1, tag).message(4, image);
}

/// `Summary.Value` of a text: a tensor of one string, for the plugin "text".
inline Message text_value(std::string_view tag, std::string_view text) {
  constexpr std::int64_t dt_string = 7;
  const Message shape = Message().message(2, Message().integer(1, 1));
  const Message tensor = Message().integer(1, dt_string).message(2, shape).bytes(8, text);
  const Message metadata = Message().message(1, Message().bytes(1, "text"));
  return Message().bytes(1, tag).message(8, tensor).message(9, metadata);
}

/// The first `Event` of every file, which names the version of the format.
inline Message version_event(double wall_time) {
  return Message().real(1, wall_time).bytes(3, "brain.Event:2");
}

/// `Event` that takes back what earlier files of the directory hold from @p step on.
inline Message restart_event(double wall_time, std::int64_t step) {
  constexpr std::int64_t start = 1;
  return Message().real(1, wall_time).integer(2, step).message(7, Message().integer(1, start));
}

/// `Event` with a `Summary`.
inline Message summary_event(double wall_time, std::int64_t step, const Message& summary) {
  return Message().real(1, wall_time).integer(2, step).message(5, summary);
}

}  // namespace contraflow::tfevents
