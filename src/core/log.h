#pragma once
// Boost.Log behind four macros: console (rank 0: info and above; other ranks: errors) and, once a run folder exists, a
// file.

#include <boost/log/sinks/sink.hpp>
#include <boost/log/trivial.hpp>
#include <boost/smart_ptr/shared_ptr.hpp>
#include <filesystem>

#define LDMTUNE_LOG(level) BOOST_LOG_TRIVIAL(level)

namespace ldmtune {

/// Console sink of this rank. Call once, first.
void start_console_log(int rank);
/// A file sink (appends) with time, rank and severity on each line, while it lives.
class FileLog {
 public:
  FileLog(const std::filesystem::path& file, int rank);
  ~FileLog();
  FileLog(const FileLog&) = delete;
  FileLog& operator=(const FileLog&) = delete;

 private:
  boost::shared_ptr<boost::log::sinks::sink> sink_;
};

}  // namespace ldmtune
