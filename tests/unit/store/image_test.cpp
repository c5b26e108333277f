#include "store/image.h"

#include "store/checksum.h"
#include "store/image_codecs.h"
#include "test_support.h"

namespace ldmtune::store {
namespace {

std::string big_endian(std::uint32_t value) {
  std::string text = little_endian(value, 4);
  return {text.rbegin(), text.rend()};
}

std::string chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  return big_endian(static_cast<std::uint32_t>(data.size())) + body + big_endian(crc32(std::as_bytes(std::span(body))));
}

/// A zlib stream of one stored block.
std::string zlib_stored(const std::string& data) {
  std::uint32_t a = 1, b = 0;
  for (const unsigned char byte : data) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  const auto size = static_cast<std::uint16_t>(data.size());
  return "\x78\x01\x01" + little_endian(size, 2) + little_endian(static_cast<std::uint16_t>(~size), 2) + data +
         big_endian(b << 16 | a);
}

/// A PNG of one IDAT; each row of `rows` starts with its filter byte, 0.
std::string png(std::uint32_t width, std::uint32_t height, int bit_depth, int colour_type, const std::string& rows,
                const std::string& before_data = "") {
  const std::string header = big_endian(width) + big_endian(height) + static_cast<char>(bit_depth) +
                             static_cast<char>(colour_type) + std::string(3, '\0');
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR", header) + before_data + chunk("IDAT", zlib_stored(rows)) +
         chunk("IEND", "");
}

at::Tensor read_bytes_as_image(const std::string& bytes) {
  const TemporaryFolder folder;
  write_bytes(folder / "image", bytes);
  return read_image(folder / "image");
}

void expect_refused(const std::string& bytes, const std::string& expected) {
  expect_input_error([&] { read_bytes_as_image(bytes); }, expected, "image");
}

at::Tensor pixels(const std::vector<int>& values, at::IntArrayRef shape) {
  return at::tensor(values).to(at::kByte).reshape(shape);
}

TEST(Png, RoundTripsPixelsAndIsDeterministic) {
  const TemporaryFolder folder;
  const at::Tensor image = at::randint(0, 256, {17, 23, 3}).to(at::kByte);
  write_png(folder / "a.png", image, {{"parameters", "a cat\nSteps: 20"}, {"title", "Kätzchen"}});
  write_png(folder / "b.png", image, {{"parameters", "a cat\nSteps: 20"}, {"title", "Kätzchen"}});
  EXPECT_TRUE(at::equal(read_image(folder / "a.png"), image));
  EXPECT_EQ(read_bytes(folder / "a.png"), read_bytes(folder / "b.png"));
  EXPECT_NE(read_bytes(folder / "a.png").find(std::string("tEXtparameters\0a cat", 20)), std::string::npos);
  EXPECT_NE(read_bytes(folder / "a.png").find("iTXttitle"), std::string::npos);
}

TEST(Png, ConvertsEveryColourType) {
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(2, 1, 8, 0, std::string("\0\x10\xF0", 3))),
                        pixels({16, 16, 16, 240, 240, 240}, {1, 2, 3})));
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(4, 1, 1, 0, std::string("\0\xA0", 2))).select(2, 0),
                        pixels({255, 0, 255, 0}, {1, 4})));
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(1, 1, 16, 2, std::string("\0\x12\xFF\x34\0\x56\x01", 7))),
                        pixels({0x12, 0x34, 0x56}, {1, 1, 3})));
  const std::string palette = chunk("PLTE", std::string("\1\2\3\4\5\6", 6));
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(2, 1, 8, 3, std::string("\0\1\0", 3), palette)),
                        pixels({4, 5, 6, 1, 2, 3}, {1, 2, 3})));
}

TEST(Png, PutsTransparencyOverWhite) {
  const std::string rows("\0\x64\x64\x64\xFF\x64\x64\x64\0\x64\x64\x64\x80", 13);
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(3, 1, 8, 6, rows)).select(2, 1), pixels({100, 255, 177}, {1, 3})));
  const std::string palette = chunk("PLTE", std::string("\1\2\3\4\5\6", 6)) + chunk("tRNS", std::string("\0", 1));
  EXPECT_TRUE(at::equal(read_bytes_as_image(png(2, 1, 8, 3, std::string("\0\1\0", 3), palette)),
                        pixels({4, 5, 6, 255, 255, 255}, {1, 2, 3})));
}

TEST(Png, TurnsImagesUprightByTheirExif) {
  // A 2x1 image (left 10, right 20) whose EXIF says: rotate by 90 degrees clockwise to show it.
  const std::string exif =
      std::string("MM\0*\0\0\0\x8\0\1", 10) + std::string("\x01\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0", 16);
  const at::Tensor image = read_bytes_as_image(png(2, 1, 8, 0, std::string("\0\x0A\x14", 3), chunk("eXIf", exif)));
  EXPECT_TRUE(at::equal(image.select(2, 0), pixels({10, 20}, {2, 1})));
  EXPECT_TRUE(image.is_contiguous());
}

TEST(Exif, IsReadInBothByteOrdersAndNeverPastItsEnd) {
  const std::string big =
      std::string("MM\0*\0\0\0\x8\0\1", 10) + std::string("\x01\x12\0\3\0\0\0\1\0\5\0\0\0\0\0\0", 16);
  const std::string little =
      std::string("Exif\0\0II*\0\x8\0\0\0\1\0", 16) + std::string("\x12\x01\3\0\1\0\0\0\7\0\0\0\0\0\0\0", 16);
  const auto orientation = [](const std::string& exif) {
    return exif_orientation({reinterpret_cast<const unsigned char*>(exif.data()), exif.size()});
  };
  EXPECT_EQ(orientation(big), 5);
  EXPECT_EQ(orientation(little), 7);
  for (std::size_t size = 0; size < little.size(); ++size) orientation(little.substr(0, size));
  EXPECT_EQ(orientation(big.substr(0, 21)), 1);
  EXPECT_EQ(orientation(std::string("MM\0*\xFF\xFF\xFF\xFF", 8)), 1);
}

TEST(ImageBadInput, SizesAreCheckedBeforeMemoryIsTaken) {
  const std::string row(10, '\0');
  expect_refused(png(0x7fffffff, 0x7fffffff, 8, 2, row), "2147483647x2147483647");
  expect_refused(png(0x80000000, 0x80000000, 8, 2, row), "PNG");
  expect_refused(png(50'000, 50'000, 8, 2, row), "50000x50000");
  expect_refused(png(0, 1, 8, 2, row), "PNG");
  EXPECT_THROW(allocate_pixels("x", 0, 5, 3), InputError);
  EXPECT_THROW(allocate_pixels("x", UINT64_MAX, UINT64_MAX, 3), InputError);
  EXPECT_THROW(allocate_pixels("x", 10'001, 10'000, 3), InputError);
}

TEST(ImageBadInput, TextAndProfilesThatExpandAreNotRead) {
  // A profile that claims to be compressed but is not: an error if anything tried to expand it.
  const std::string bomb =
      chunk("iCCP", std::string("p\0\0not zlib", 11)) + chunk("zTXt", std::string("k\0\0not zlib", 11));
  EXPECT_EQ(read_bytes_as_image(png(1, 1, 8, 0, std::string("\0\7", 2), bomb)).sizes(), at::IntArrayRef({1, 1, 3}));
}

TEST(ImageBadInput, OtherFormatsAndDamage) {
  expect_refused("", "PNG, JPEG or WebP");
  expect_refused("GIF89a", "found 'GIF89a'");
  expect_refused("\xFF\xD8\xFF\xE0 no JPEG", "JPEG");
  expect_refused("RIFF" + little_endian(4, 4) + "WEBP", "WebP");
  std::string damaged = png(1, 1, 8, 0, std::string("\0\7", 2));
  damaged[18] = static_cast<char>(damaged[18] ^ 1);  // in IHDR
  expect_refused(damaged, "PNG");
  const TemporaryFolder folder;
  write_png(folder / "a.png", at::randint(0, 256, {9, 9, 3}).to(at::kByte));
  const std::string whole = read_bytes(folder / "a.png");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    write_bytes(folder / "cut.png", whole.substr(0, size));
    EXPECT_THROW(read_image(folder / "cut.png"), InputError) << size;
  }
}

TEST(ToUint8Image, RoundsHalfToEvenAndClamps) {
  const at::Tensor values = at::tensor({-2.0, -1.0, 0.0, 1.0, 3.0, std::nan("")}).to(at::kFloat);
  const at::Tensor image = values.reshape({1, 1, 6}).expand({3, 1, 6});
  EXPECT_TRUE(at::equal(to_uint8_image(image).select(2, 0), pixels({0, 0, 128, 255, 255, 128}, {1, 6})));
  EXPECT_EQ(to_uint8_image(at::zeros({2, 3, 4, 5})).sizes(), at::IntArrayRef({2, 4, 5, 3}));
}

TEST(DrawGrid, PlacesEnlargedCellsAndLeavesRoomForLabels) {
  ImageGrid grid;
  const at::Tensor red = pixels({200, 10, 20}, {1, 1, 3}).expand({8, 8, 3}),
                   blue = pixels({1, 2, 250}, {1, 1, 3}).expand({8, 8, 3});
  grid.rows = {{red, blue}, {at::Tensor(), red}};
  const at::Tensor plain = draw_grid(grid, 3);
  EXPECT_EQ(plain.sizes(), at::IntArrayRef({4 + 2 * 28, 4 + 2 * 28, 3}));
  EXPECT_TRUE(at::equal(plain[4][4], red[0][0]));
  EXPECT_TRUE(at::equal(plain[27][27], red[0][0]));
  EXPECT_TRUE(at::equal(plain[4][32], blue[0][0]));
  EXPECT_TRUE((plain.slice(0, 32).slice(1, 0, 32) == 255).all().item<bool>());  // the empty cell
  grid.title = "A title";
  grid.column_labels = {"base", "1, 2, 4, 2, 1 with a very long description that must be cut"};
  grid.row_labels = {"cat, pencil", std::string("bad \xff\0 label", 12)};
  const at::Tensor labelled = draw_grid(grid, 3);
  EXPECT_GT(labelled.size(0), plain.size(0));
  EXPECT_GT(labelled.size(1), plain.size(1));
  EXPECT_LT(labelled.min().item<int>(), 60);  // some text was drawn
  EXPECT_TRUE(at::equal(labelled, draw_grid(grid, 3)));
}

TEST(DrawGrid, RefusesPagesTooLargeToDraw) {
  ImageGrid grid;
  grid.rows = {{at::zeros({8, 8, 3}, at::kByte)}};
  EXPECT_THROW(draw_grid(grid, 5000), Error);
}

}  // namespace
}  // namespace ldmtune::store
