#pragma once
// Every MPI call passes through here once. Only for comm/*.cpp: it includes mpi.h.

#include <mpi.h>

#include <string>

#include "core/error.h"

namespace ldmtune::comm {

/// Errors: Error with the call and MPI's own words, unless `code` is MPI_SUCCESS.
inline void check_mpi(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail(call, " failed: ", text);
}

}  // namespace ldmtune::comm
