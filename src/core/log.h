#pragma once
// Boost.Log behind four macros: console (rank 0: info and above; other ranks: errors) and, once a run folder exists, a file.

#include <boost/log/trivial.hpp>
#include <filesystem>

#define LDMTUNE_LOG(level) BOOST_LOG_TRIVIAL(level)

namespace ldmtune {

/// Console sink of this rank. Call once, first.
void start_console_log(int rank);
/// Adds a file sink (appends) with time, rank and severity on each line.
void start_file_log(const std::filesystem::path& file, int rank);

}  // namespace ldmtune
