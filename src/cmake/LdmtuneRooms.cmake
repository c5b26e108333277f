# A room is a folder of src/ that becomes one static library. DEPENDS names the rooms whose
# headers it may include (the arrows of src/README.md), LIBRARIES what else it links.

set(LDMTUNE_WARNINGS -Wall -Wextra -Wshadow -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC bug 105651: a false alarm on string concatenation.
  list(APPEND LDMTUNE_WARNINGS -Wno-restrict)
endif()
find_program(LDMTUNE_CCACHE ccache)
if(LDMTUNE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # The precompiled header's time stamp and __TIME__ macros would spoil every hit.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${LDMTUNE_CCACHE})
endif()

# One precompiled header of ATen for all rooms and tests: 2.6 s a file instead of 8.
file(WRITE ${CMAKE_BINARY_DIR}/pch/empty.cpp.in "// Owns the precompiled header.\n")
configure_file(${CMAKE_BINARY_DIR}/pch/empty.cpp.in ${CMAKE_BINARY_DIR}/pch/empty.cpp COPYONLY)
add_library(ldmtune_pch OBJECT ${CMAKE_BINARY_DIR}/pch/empty.cpp)
target_link_libraries(ldmtune_pch PUBLIC ldmtune_torch nlohmann_json::nlohmann_json)
target_compile_options(ldmtune_pch PRIVATE ${LDMTUNE_WARNINGS} -fpch-preprocess)
target_precompile_headers(ldmtune_pch PRIVATE <ATen/ATen.h> <nlohmann/json.hpp> <string> <vector> <map> <filesystem>)

function(ldmtune_use_pch target)
  target_link_libraries(${target} PRIVATE ldmtune_torch nlohmann_json::nlohmann_json)
  target_compile_options(${target} PRIVATE -fpch-preprocess)
  target_precompile_headers(${target} REUSE_FROM ldmtune_pch)
endfunction()

function(ldmtune_room name)
  cmake_parse_arguments(ROOM "NO_ATEN" "" "DEPENDS;LIBRARIES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp)
  if(NOT sources)
    set(sources ${CMAKE_BINARY_DIR}/pch/empty.cpp)
  endif()
  add_library(ldmtune_${name} STATIC ${sources})
  target_include_directories(ldmtune_${name} PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(ldmtune_${name} PRIVATE ${LDMTUNE_WARNINGS})
  list(TRANSFORM ROOM_DEPENDS PREPEND ldmtune_)
  target_link_libraries(ldmtune_${name} PUBLIC ${ROOM_DEPENDS} ${ROOM_LIBRARIES})
  if(NOT ROOM_NO_ATEN)
    target_link_libraries(ldmtune_${name} PUBLIC ldmtune_torch)
    ldmtune_use_pch(ldmtune_${name})
  endif()
endfunction()
