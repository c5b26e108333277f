#pragma once
// Signatures and sizes of the zip format (PKWARE's APPNOTE.TXT, section 4.3). Internal to store.

#include <cstddef>
#include <cstdint>

namespace ldmtune::store {

constexpr std::uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEndRecord = 0x06054b50;
constexpr std::uint32_t kZip64EndRecord = 0x06064b50, kZip64Locator = 0x07064b50;
constexpr std::size_t kLocalHeaderSize = 30, kCentralHeaderSize = 46, kEndRecordSize = 22;
constexpr std::size_t kZip64EndRecordSize = 56, kZip64LocatorSize = 20;
constexpr std::uint32_t kSeeZip64 = 0xFFFFFFFF;
constexpr std::uint16_t kZip64Extra = 1, kPaddingExtra = 0x4246;  // torch's "FB"

}  // namespace ldmtune::store
