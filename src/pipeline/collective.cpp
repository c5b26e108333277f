#include "pipeline/collective.h"

#include <c10/util/Exception.h>

#include <exception>

#include "core/error.h"

namespace ldmtune::pipeline {
namespace {

// A payload's first byte says how the work ended: the exit code, 0 for done.
std::string attempt(const std::function<std::string()>& work) {
  const auto failed = [](ExitCode code, const char* what) { return std::string(1, static_cast<char>(code)) + what; };
  try {
    return std::string(1, '\0') + work();
  } catch (const Error& error) {
    return failed(error.code(), error.what());
  } catch (const c10::Error& error) {
    return failed(ExitCode::failed, error.what_without_backtrace());
  } catch (const std::exception& error) {
    return failed(ExitCode::failed, error.what());
  }
}

}  // namespace

std::vector<std::string> gather_together(comm::Communicator& comm, const std::function<std::string()>& work) {
  std::vector<std::string> payloads = comm.all_gather(attempt(work));
  for (std::size_t rank = 0; rank < payloads.size(); ++rank) {
    const auto code = static_cast<ExitCode>(payloads[rank].at(0));
    if (code == ExitCode::done) continue;
    std::string message = payloads[rank].substr(1);
    if (comm.size() > 1 && rank > 0) message += cat(" [rank ", rank, "]");
    if (code == ExitCode::bad_input) throw InputError(message);
    throw Error(message, code);
  }
  for (std::string& payload : payloads) payload.erase(0, 1);
  return payloads;
}

void run_together(comm::Communicator& comm, const std::function<void()>& work) {
  gather_together(comm, [&work] {
    work();
    return std::string();
  });
}

std::string root_gives(comm::Communicator& comm, const std::function<std::string()>& work) {
  return gather_together(comm, [&] { return comm.rank() == 0 ? work() : std::string(); }).front();
}

}  // namespace ldmtune::pipeline
