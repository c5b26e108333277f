#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "store/file_io.h"
#include "store/files.h"
#include "store/image.h"
#include "store/image_codecs.h"

namespace ldmtune::store {
namespace {

// libpng reports errors by longjmp: between setjmp and the library's calls no C++ object with a destructor is made.

struct Message {
  char text[200] = "no reason given";
};

[[noreturn]] void on_error(png_structp png, png_const_charp text) {
  auto* message = static_cast<Message*>(png_get_error_ptr(png));
  std::snprintf(message->text, sizeof message->text, "%s", text);
  png_longjmp(png, 1);
}
void on_warning(png_structp, png_const_charp) {}

struct Source {
  const unsigned char* at;
  std::size_t left;
};

void read_bytes(png_structp png, png_bytep out, png_size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->left) png_error(png, "the file ends too early");
  std::memcpy(out, source->at, count);
  source->at += count;
  source->left -= count;
}

class PngReader {
 public:
  explicit PngReader(const std::string& bytes)
      : source_{reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &message_, on_error, on_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) fail("libpng: no memory");
  }
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  /// Everything before the pixels. False: see reason().
  bool read_header() {
    if (setjmp(png_jmpbuf(png_))) return false;
    // Text, profiles and other chunks that expand are skipped unread; orientation and transparency are needed.
    static const png_byte kSkipped[] = "iCCP\0zTXt\0iTXt\0tEXt\0sPLT\0hIST\0pCAL";
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, kSkipped, 7);
    png_set_chunk_malloc_max(png_, 8 << 20);
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);
    png_set_read_fn(png_, &source_, read_bytes);
    png_read_info(png_, info_);
    return true;
  }
  /// Makes rows 8-bit RGB or RGBA. Takes memory for a row: check the size first.
  bool start_rows() {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_expand(png_);
    png_set_strip_16(png_);
    png_set_gray_to_rgb(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return true;
  }
  bool read_rows(png_bytep* rows) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

  std::uint32_t width() const { return png_get_image_width(png_, info_); }
  std::uint32_t height() const { return png_get_image_height(png_, info_); }
  int channels() const { return png_get_channels(png_, info_); }
  int orientation() const {
    png_bytep exif = nullptr;
    png_uint_32 length = 0;
    return png_get_eXIf_1(png_, info_, &length, &exif) ? exif_orientation({exif, length}) : 1;
  }
  std::string reason() const { return message_.text; }

 private:
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Message message_;
  Source source_;
};

std::vector<png_bytep> row_pointers(at::Tensor& pixels) {
  std::vector<png_bytep> rows(static_cast<std::size_t>(pixels.size(0)));
  for (std::size_t y = 0; y < rows.size(); ++y) {
    rows[y] = pixels.mutable_data_ptr<std::uint8_t>() + static_cast<std::int64_t>(y) * pixels.stride(0);
  }
  return rows;
}

class PngWriter {
 public:
  PngWriter() {
    png_ = png_create_write_struct(PNG_LIBPNG_VER_STRING, &message_, on_error, on_warning);
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) fail("libpng: no memory");
  }
  ~PngWriter() { png_destroy_write_struct(&png_, &info_); }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;

  bool write(std::vector<png_bytep>& rows, std::uint32_t width, std::vector<png_text>& text) {
    if (setjmp(png_jmpbuf(png_))) return false;
    png_set_write_fn(png_, &out_, append_bytes, nullptr);
    png_set_IHDR(png_, info_, width, static_cast<png_uint_32>(rows.size()), 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_text(png_, info_, text.data(), static_cast<int>(text.size()));
    png_write_info(png_, info_);
    png_write_image(png_, rows.data());
    png_write_end(png_, info_);
    return true;
  }
  const std::string& bytes() const { return out_; }
  std::string reason() const { return message_.text; }

 private:
  static void append_bytes(png_structp png, png_bytep bytes, png_size_t count) {
    static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<const char*>(bytes), count);
  }
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Message message_;
  std::string out_;
};

}  // namespace

DecodedImage decode_png(const std::filesystem::path& file, const std::string& bytes) {
  PngReader reader(bytes);
  if (!reader.read_header()) fail_image(file, "PNG", reader.reason());
  check_pixels(file, reader.width(), reader.height());
  if (!reader.start_rows()) fail_image(file, "PNG", reader.reason());
  at::Tensor pixels = allocate_pixels(file, reader.width(), reader.height(), reader.channels());
  std::vector<png_bytep> rows = row_pointers(pixels);
  if (!reader.read_rows(rows.data())) fail_image(file, "PNG", reader.reason());
  if (reader.channels() != 4) return {pixels, reader.orientation()};
  return {over_white(pixels), reader.orientation(), pixels.select(2, 3)};
}

void write_png(const std::filesystem::path& file, const at::Tensor& image_HWC,
               const std::map<std::string, std::string>& text) {
  TORCH_CHECK(image_HWC.dim() == 3 && image_HWC.size(2) == 3 && image_HWC.scalar_type() == at::kByte,
              "write_png: uint8 (H, W, 3)");
  at::Tensor pixels = image_HWC.cpu().contiguous();
  std::vector<png_bytep> rows = row_pointers(pixels);
  std::map<std::string, std::string> entries = text;
  std::vector<png_text> chunks;
  for (auto& [key, value] : entries) {
    TORCH_CHECK(!key.empty() && key.size() < 80, "write_png: text keys have 1 to 79 characters");
    const bool ascii =
        std::all_of(value.begin(), value.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
    png_text chunk{};
    chunk.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE;
    chunk.key = const_cast<char*>(key.c_str());
    chunk.text = value.data();
    chunk.text_length = value.size();
    chunks.push_back(chunk);
  }
  PngWriter writer;
  if (!writer.write(rows, static_cast<std::uint32_t>(pixels.size(1)), chunks)) {
    fail("cannot write ", file, ": libpng: ", writer.reason(), ".");
  }
  write_text(file, writer.bytes());
}

}  // namespace ldmtune::store
