#include <csetjmp>
#include <cstdio>
#include <vector>
// jpeglib.h needs FILE and size_t declared before it.
#include <jerror.h>
#include <jpeglib.h>

#include "store/image_codecs.h"

namespace ldmtune::store {
namespace {

// libjpeg reports errors by longjmp: between setjmp and the library's calls no C++ object with a destructor is made.

/// A progressive file may repeat scans without end; real ones have about ten.
constexpr int kMostScans = 200;

struct ErrorManager {
  jpeg_error_mgr base;  ///< first: the library hands back a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void on_error(j_common_ptr info) {
  auto* errors = reinterpret_cast<ErrorManager*>(info->err);
  errors->base.format_message(info, errors->message);
  std::longjmp(errors->jump, 1);
}

/// The library fills what is missing with grey and goes on: damaged data must be an error here.
void on_message(j_common_ptr info, int level) {
  const int code = info->err->msg_code;
  const bool damaged =
      code == JWRN_HIT_MARKER || code == JWRN_JPEG_EOF || code == JWRN_HUFF_BAD_CODE || code == JWRN_MUST_RESYNC;
  if (level < 0 && damaged) on_error(info);
}
void no_output(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number <= kMostScans) return;
  auto* errors = reinterpret_cast<ErrorManager*>(info->err);
  std::snprintf(errors->message, sizeof errors->message, "more than %d scans", kMostScans);
  std::longjmp(errors->jump, 1);
}

class JpegReader {
 public:
  explicit JpegReader(const std::string& bytes) : bytes_(bytes) {
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = on_error;
    errors_.base.emit_message = on_message;
    errors_.base.output_message = no_output;
    errors_.message[0] = '\0';
    progress_.progress_monitor = limit_scans;
  }
  ~JpegReader() { jpeg_destroy_decompress(&info_); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  bool read_header() {
    if (setjmp(errors_.jump)) return false;
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    jpeg_mem_src(&info_, const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes_.data())),
                 bytes_.size());
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info_, TRUE);
    info_.out_color_space = channels() == 4 ? JCS_CMYK : JCS_RGB;
    return true;
  }
  bool read_rows(unsigned char* pixels) {
    if (setjmp(errors_.jump)) return false;
    jpeg_start_decompress(&info_);
    while (info_.output_scanline < info_.output_height) {
      JSAMPROW row = pixels + static_cast<std::size_t>(info_.output_scanline) * info_.output_width *
                                  static_cast<std::size_t>(info_.output_components);
      jpeg_read_scanlines(&info_, &row, 1);
    }
    jpeg_finish_decompress(&info_);
    return true;
  }

  std::uint64_t width() const { return info_.image_width; }
  std::uint64_t height() const { return info_.image_height; }
  int channels() const { return info_.num_components == 4 ? 4 : 3; }
  int orientation() const {
    for (auto* marker = info_.marker_list; marker; marker = marker->next) {
      const std::span<const unsigned char> data(marker->data, marker->data_length);
      if (data.size() > 6 && std::string(data.begin(), data.begin() + 4) == "Exif") return exif_orientation(data);
    }
    return 1;
  }
  std::string reason() const { return errors_.message; }

 private:
  const std::string& bytes_;
  jpeg_decompress_struct info_{};
  jpeg_progress_mgr progress_{};
  ErrorManager errors_;
};

/// uint8 (H, W, 4) CMYK, stored inverted as Adobe's programs do (and as everyone assumes), to RGB.
at::Tensor cmyk_to_rgb(const at::Tensor& inverted) {
  const at::Tensor wide = inverted.to(at::kInt);
  const at::Tensor product = wide.narrow(2, 0, 3) * wide.narrow(2, 3, 1);
  return at::floor_divide(product + 127, 255).to(at::kByte);
}

}  // namespace

DecodedImage decode_jpeg(const std::filesystem::path& file, const std::string& bytes) {
  JpegReader reader(bytes);
  if (!reader.read_header()) fail_image(file, "JPEG", reader.reason());
  at::Tensor pixels = allocate_pixels(file, reader.width(), reader.height(), reader.channels());
  const int orientation = reader.orientation();  // the library forgets markers with the last row
  if (!reader.read_rows(pixels.mutable_data_ptr<std::uint8_t>())) fail_image(file, "JPEG", reader.reason());
  return {reader.channels() == 4 ? cmyk_to_rgb(pixels) : pixels, orientation};
}

}  // namespace ldmtune::store
