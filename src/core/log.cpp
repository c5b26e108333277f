#include "core/log.h"

#include <boost/log/attributes/constant.hpp>
#include <boost/log/core.hpp>
#include <boost/log/expressions.hpp>
#include <boost/log/support/date_time.hpp>
#include <boost/log/utility/setup/common_attributes.hpp>
#include <boost/log/utility/setup/console.hpp>
#include <boost/log/utility/setup/file.hpp>
#include <iostream>

#include "core/log_scope.h"

namespace ldmtune {
namespace {
namespace logging = boost::log;
namespace expr = boost::log::expressions;

thread_local std::string current_scope;
}  // namespace

void start_console_log(int rank) {
  logging::add_common_attributes();
  auto sink = logging::add_console_log(std::clog, logging::keywords::format = expr::stream << expr::smessage,
                                       logging::keywords::auto_flush = true);
  const auto level = rank == 0 ? logging::trivial::info : logging::trivial::error;
  sink->set_filter(logging::trivial::severity >= level);
}

LogScope::LogScope(const std::string& name) : outer_(current_scope) { current_scope = name; }

LogScope::~LogScope() { current_scope = outer_; }

FileLog::FileLog(const std::filesystem::path& file, int rank) {
  const auto format = expr::stream << expr::format_date_time<boost::posix_time::ptime>("TimeStamp", "%Y-%m-%d %H:%M:%S")
                                   << " rank " << rank << " [" << logging::trivial::severity << "] " << expr::smessage;
  const auto sink = logging::add_file_log(logging::keywords::file_name = file.string(),
                                          logging::keywords::open_mode = std::ios_base::app,
                                          logging::keywords::auto_flush = true, logging::keywords::format = format);
  sink_ = sink;
  if (current_scope.empty()) return;
  // Sinks are fed in the thread that logs.
  sink->set_filter([scope = current_scope](const logging::attribute_value_set&) {
    return current_scope.empty() || current_scope == scope;
  });
}

FileLog::~FileLog() { logging::core::get()->remove_sink(sink_); }

}  // namespace ldmtune
