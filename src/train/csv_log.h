#pragma once
// A CSV file that grows by rows and is cut back to a step when a run resumes.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace ldmtune::train {

class CsvLog {
 public:
  /// Opens for appending, with this header if new. Rows whose first column, the step, is above `keep_up_to` are removed
  /// (the file is rewritten atomically); -1 removes all.
  CsvLog(std::filesystem::path file, const std::vector<std::string>& columns, std::int64_t keep_up_to);

  /// Appends one row and flushes it. Texts are quoted where they need it.
  void append(const std::vector<std::string>& values);

 private:
  std::filesystem::path file_;
  std::size_t columns_;
  std::ofstream out_;
};

/// Quoted as RFC 4180 where the text holds a comma, quote or line break.
std::string csv_field(const std::string& text);

}  // namespace ldmtune::train
