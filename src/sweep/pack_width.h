#pragma once
// How many trials a pack holds, and the memory that it takes.

#include <cstddef>
#include <optional>
#include <string>

#include "comm/communicator.h"
#include "sweep/grid.h"

namespace ldmtune::sweep {

/// Bytes of each of `ranks` ranks that train any pack of the grid, `width` trials at a time, as sweep/memory_plan.h
/// counts them: the base once, what each trial trains, the activations of all rows. Errors: InputError naming a file of
/// the base, or an option.
double pack_bytes(const Grid& grid, std::size_t width, int ranks);

/// The most trials at a time, 1 to 8, whose pack takes at most `bytes` of a rank; 1 where none does. Beyond 8 rows the
/// embedded base's batch stops paying.
std::size_t widest_pack(const Grid& grid, int ranks, double bytes);

/// The width that a sweep was trained with last, as its sweep.json says.
std::optional<std::size_t> recorded_width(const Grid& grid);

/// The width that --pack asks for on `ranks` ranks: a number from 1 on, or "auto": what the sweep was begun with, since
/// the bits depend on it; else the widest pack for nine tenths of the memory that is free now, a host's ranks (or a
/// GPU's) sharing what it has, and the rank with the least deciding. All ranks call it and get one number. Errors:
/// InputError.
std::size_t pack_width(const std::string& text, const Grid& grid, int ranks, comm::Communicator& comm);

}  // namespace ldmtune::sweep
