#include <cairo.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "store/file_io.h"
#include "store/image.h"

namespace ldmtune::store {
namespace {

constexpr int kGap = 4;                // pixels between cells
constexpr int kTitleGap = 8;           // pixels below the title
constexpr std::size_t kMostLines = 4;  // of one label

/// A white page to write on.
class Canvas {
 public:
  Canvas(std::int64_t width, std::int64_t height)
      : surface_(cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(width), static_cast<int>(height))),
        context_(cairo_create(surface_)) {
    if (cairo_surface_status(surface_) != CAIRO_STATUS_SUCCESS) {
      const std::string why = cairo_status_to_string(cairo_surface_status(surface_));
      release();
      fail("cannot draw a grid of ", width, "x", height, " pixels: ", why, ". Use fewer or smaller cells.");
    }
    cairo_set_source_rgb(context_, 1, 1, 1);
    cairo_paint(context_);
    cairo_set_source_rgb(context_, 0.1, 0.1, 0.1);
    cairo_select_font_face(context_, "sans-serif", CAIRO_FONT_SLANT_NORMAL, CAIRO_FONT_WEIGHT_NORMAL);
  }
  ~Canvas() { release(); }
  Canvas(const Canvas&) = delete;
  Canvas& operator=(const Canvas&) = delete;

  void set_font_size(double size) { cairo_set_font_size(context_, size); }
  double text_width(const std::string& text) const {
    cairo_text_extents_t extents;
    cairo_text_extents(context_, text.c_str(), &extents);
    return extents.x_advance;
  }
  void draw_text(const std::string& text, double x, double baseline) {
    cairo_move_to(context_, x, baseline);
    cairo_show_text(context_, text.c_str());
  }
  /// uint8 (H, W, 3).
  at::Tensor pixels() {
    cairo_surface_flush(surface_);
    const std::int64_t height = cairo_image_surface_get_height(surface_),
                       width = cairo_image_surface_get_width(surface_);
    // A pixel is a native 32-bit word, 0x00RRGGBB.
    const at::Tensor words = at::from_blob(cairo_image_surface_get_data(surface_), {height, width},
                                           {cairo_image_surface_get_stride(surface_) / 4, 1}, at::kInt);
    const auto channel = [&](int shift) { return words.bitwise_right_shift(shift).bitwise_and(255); };
    return at::stack({channel(16), channel(8), channel(0)}, 2).to(at::kByte);
  }

 private:
  void release() {
    cairo_destroy(context_);
    cairo_surface_destroy(surface_);
  }
  cairo_surface_t* surface_;
  cairo_t* context_;
};

using Lines = std::vector<std::string>;

/// The text cut to `width` pixels, with an ellipsis where it was longer.
std::string shorten(const Canvas& canvas, std::string text, double width) {
  if (canvas.text_width(text) <= width) return text;
  do {
    do text.pop_back();
    while (!text.empty() && !is_utf8(text));
  } while (!text.empty() && canvas.text_width(text + "…") > width);
  return text + "…";
}

/// Words laid into lines of at most `width` pixels.
Lines wrap(const Canvas& canvas, const std::string& label, double width) {
  Lines lines;
  std::istringstream words(is_utf8(label) && label.find('\0') == std::string::npos ? label : printable(label));
  std::string word, line;
  while (words >> word) {
    const std::string longer = line.empty() ? word : line + " " + word;
    if (!line.empty() && canvas.text_width(longer) > width) {
      lines.push_back(line);
      line = word;
    } else {
      line = longer;
    }
  }
  if (!line.empty()) lines.push_back(line);
  if (lines.size() > kMostLines) {
    lines.resize(kMostLines);
    lines.back() += "…";
  }
  for (std::string& each : lines) each = shorten(canvas, each, width);
  return lines;
}

std::size_t most_lines(const std::vector<Lines>& labels) {
  std::size_t most = 0;
  for (const Lines& lines : labels) most = std::max(most, lines.size());
  return most;
}

/// Where everything stands, in pixels.
struct Layout {
  std::int64_t cell_width = 0, cell_height = 0, columns = 0, rows = 0;
  std::int64_t left = kGap, top = kGap;  ///< of the first cell
  double font_size = 0, line_height = 0, row_label_width = 0;
  Lines title;
  std::vector<Lines> column_labels, row_labels;

  std::int64_t width() const { return left + columns * (cell_width + kGap); }
  std::int64_t height() const { return top + rows * (cell_height + kGap); }
  std::int64_t x(std::size_t column) const { return left + static_cast<std::int64_t>(column) * (cell_width + kGap); }
  std::int64_t y(std::size_t row) const { return top + static_cast<std::int64_t>(row) * (cell_height + kGap); }
};

void measure_cells(const ImageGrid& grid, int scale, Layout& layout) {
  layout.rows = static_cast<std::int64_t>(std::max(grid.rows.size(), grid.row_labels.size()));
  layout.columns = static_cast<std::int64_t>(grid.column_labels.size());
  for (const auto& row : grid.rows) {
    layout.columns = std::max(layout.columns, static_cast<std::int64_t>(row.size()));
    for (const at::Tensor& cell : row) {
      if (!cell.defined()) continue;
      TORCH_CHECK(cell.dim() == 3 && cell.size(2) == 3 && cell.scalar_type() == at::kByte,
                  "draw_grid: uint8 (H, W, 3)");
      layout.cell_width = std::max(layout.cell_width, cell.size(1) * scale);
      layout.cell_height = std::max(layout.cell_height, cell.size(0) * scale);
    }
  }
  TORCH_CHECK(layout.cell_width > 0, "draw_grid: no image in the grid");
}

Layout lay_out(const ImageGrid& grid, int scale) {
  Layout layout;
  measure_cells(grid, scale, layout);
  layout.font_size = std::clamp(static_cast<double>(layout.cell_width) / 10, 10.0, 18.0);
  layout.line_height = std::ceil(layout.font_size * 1.3);
  Canvas ruler(1, 1);
  ruler.set_font_size(layout.font_size);
  const double widest_row_label = layout.font_size * 12;
  for (const std::string& label : grid.row_labels) {
    layout.row_labels.push_back(wrap(ruler, label, widest_row_label));
    for (const std::string& line : layout.row_labels.back()) {
      layout.row_label_width = std::max(layout.row_label_width, std::ceil(ruler.text_width(line)));
    }
  }
  if (layout.row_label_width > 0) layout.left += static_cast<std::int64_t>(layout.row_label_width) + 2 * kGap;
  for (const std::string& label : grid.column_labels) {
    layout.column_labels.push_back(wrap(ruler, label, static_cast<double>(layout.cell_width)));
  }
  layout.title = wrap(ruler, grid.title, static_cast<double>(layout.width() - 2 * kGap));
  const std::size_t header_lines = layout.title.size() + most_lines(layout.column_labels);
  layout.top += static_cast<std::int64_t>(layout.line_height) * static_cast<std::int64_t>(header_lines);
  if (!layout.title.empty()) layout.top += kTitleGap;
  if (header_lines > 0) layout.top += kGap;
  return layout;
}

void draw_labels(Canvas& canvas, const Layout& layout) {
  canvas.set_font_size(layout.font_size);
  const auto draw = [&](const Lines& lines, double x, double top) {
    for (const std::string& line : lines) {
      canvas.draw_text(line, x, top + layout.font_size);
      top += layout.line_height;
    }
  };
  draw(layout.title, kGap, kGap);
  const double below_title =
      kGap + layout.line_height * static_cast<double>(layout.title.size()) + (layout.title.empty() ? 0 : kTitleGap);
  for (std::size_t i = 0; i < layout.column_labels.size(); ++i) {
    draw(layout.column_labels[i], static_cast<double>(layout.x(i)), below_title);
  }
  for (std::size_t i = 0; i < layout.row_labels.size(); ++i) {
    const double text_height = layout.line_height * static_cast<double>(layout.row_labels[i].size());
    const double middle = static_cast<double>(layout.y(i)) + static_cast<double>(layout.cell_height) / 2;
    draw(layout.row_labels[i], kGap, middle - text_height / 2);
  }
}

}  // namespace

at::Tensor draw_grid(const ImageGrid& grid, int scale) {
  TORCH_CHECK(scale >= 1, "draw_grid: scale is 1 or more");
  const Layout layout = lay_out(grid, scale);
  Canvas canvas(layout.width(), layout.height());
  draw_labels(canvas, layout);
  at::Tensor page = canvas.pixels();
  for (std::size_t row = 0; row < grid.rows.size(); ++row) {
    for (std::size_t column = 0; column < grid.rows[row].size(); ++column) {
      if (!grid.rows[row][column].defined()) continue;
      const at::Tensor cell = grid.rows[row][column].cpu().repeat_interleave(scale, 0).repeat_interleave(scale, 1);
      page.narrow(0, layout.y(row), cell.size(0)).narrow(1, layout.x(column), cell.size(1)).copy_(cell);
    }
  }
  return page;
}

}  // namespace ldmtune::store
