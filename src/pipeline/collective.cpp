#include "pipeline/collective.h"

#include <c10/util/Exception.h>

#include <exception>

#include "core/error.h"

namespace ldmtune::pipeline {
// An outcome's first byte says how the work ended: the exit code, 0 for done.
std::string outcome_of(const std::function<std::string()>& work) {
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

std::vector<std::string> results_of(std::vector<std::string> outcomes) {
  for (std::size_t rank = 0; rank < outcomes.size(); ++rank) {
    const auto code = static_cast<ExitCode>(outcomes[rank].at(0));
    if (code == ExitCode::done) continue;
    std::string message = outcomes[rank].substr(1);
    if (rank > 0) message += cat(" [rank ", rank, "]");
    if (code == ExitCode::bad_input) throw InputError(message);
    throw Error(message, code);
  }
  for (std::string& outcome : outcomes) outcome.erase(0, 1);
  return outcomes;
}

std::vector<std::string> gather_together(comm::Communicator& comm, const std::function<std::string()>& work) {
  return results_of(comm.all_gather(outcome_of(work)));
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
