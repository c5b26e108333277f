#include "train/csv_log.h"

#include <utility>

#include "core/error.h"
#include "store/files.h"

namespace ldmtune::train {
namespace {

std::string joined(const std::vector<std::string>& values) {
  std::string line;
  for (std::size_t i = 0; i < values.size(); ++i) line += (i ? "," : "") + csv_field(values[i]);
  return line + '\n';
}

std::string kept_rows(const std::filesystem::path& file, const std::string& header, std::int64_t keep_up_to) {
  std::string kept = header, line;
  std::ifstream in(file);
  std::getline(in, line);
  while (std::getline(in, line)) {
    // A row cut by a kill has no step or no line end; it is above the last checkpoint in any case.
    const std::size_t comma = line.find(',');
    if (in.eof() || comma == std::string::npos) break;
    if (std::stoll(line.substr(0, comma)) <= keep_up_to) kept += line + '\n';
  }
  return kept;
}

}  // namespace

std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

CsvLog::CsvLog(std::filesystem::path file, const std::vector<std::string>& columns, std::int64_t keep_up_to)
    : file_(std::move(file)), columns_(columns.size()) {
  const std::string header = joined(columns);
  const bool keeps = keep_up_to >= 0 && std::filesystem::exists(file_);
  store::write_text(file_, keeps ? kept_rows(file_, header, keep_up_to) : header);
  out_.open(file_, std::ios::app);
  if (!out_) fail(file_.string(), ": cannot be written");
}

void CsvLog::append(const std::vector<std::string>& values) {
  if (values.size() != columns_) fail(file_.string(), ": row of ", values.size(), " values for ", columns_, " columns");
  out_ << joined(values) << std::flush;
  if (!out_) fail(file_.string(), ": write failed (is the disk full?)");
}

}  // namespace ldmtune::train
