#pragma once
// Running checksums: sha256 (OpenSSL) and the CRC-32 of zip archives.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace ldmtune::store {

/// Bytes in, lower-case hex sha256 out.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(std::span<const std::byte> bytes);
  void update(const std::string& text);
  /// Call once, last.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// CRC-32 (IEEE 802.3, reflected) of `bytes` continuing from `crc`.
std::uint32_t crc32(std::span<const std::byte> bytes, std::uint32_t crc = 0);

}  // namespace ldmtune::store
