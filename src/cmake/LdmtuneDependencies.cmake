# Finds what ldmtune is built from and gives each library one imported target.

find_package(MPI REQUIRED COMPONENTS C)
find_package(HDF5 REQUIRED COMPONENTS C)
find_package(Boost 1.74 REQUIRED COMPONENTS program_options log log_setup)
find_package(nlohmann_json REQUIRED)
find_package(OpenSSL REQUIRED COMPONENTS Crypto)
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(ICU REQUIRED IMPORTED_TARGET icu-uc)
pkg_check_modules(PNG REQUIRED IMPORTED_TARGET libpng)
pkg_check_modules(JPEG REQUIRED IMPORTED_TARGET libjpeg)
pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp)
pkg_check_modules(CAIRO REQUIRED IMPORTED_TARGET cairo)
find_path(RANDOM123_INCLUDE_DIR Random123/philox.h REQUIRED)

# jemalloc, where it is: a training step frees and takes the same tensors over and over, and the C library's heap keeps
# more holes than jemalloc's (tests/bench/RESULTS.md).
set(LDMTUNE_JEMALLOC_LIBRARY "")
if(LDMTUNE_JEMALLOC)
  pkg_check_modules(JEMALLOC QUIET IMPORTED_TARGET jemalloc)
  if(JEMALLOC_FOUND)
    set(LDMTUNE_JEMALLOC_LIBRARY PkgConfig::JEMALLOC)
  endif()
endif()
message(STATUS "Memory from ${LDMTUNE_JEMALLOC_LIBRARY} (empty: the C library)")

# LibTorch: Torch_DIR (…/share/cmake/Torch) if given, else the torch that a Python can import.
# The wheel's own TorchConfig.cmake demands nvcc where the wheel is a CUDA build, so the
# libraries are taken from the folder directly.
if(Torch_DIR)
  get_filename_component(LDMTUNE_TORCH_ROOT "${Torch_DIR}/../../.." ABSOLUTE)
elseif(NOT LDMTUNE_TORCH_ROOT)
  foreach(candidate ${LDMTUNE_PYTHON} ${CMAKE_SOURCE_DIR}/.venv/bin/python python3 python)
    execute_process(
      COMMAND ${candidate} -c "import os, torch; print(os.path.dirname(torch.__file__))"
      OUTPUT_VARIABLE torch_root OUTPUT_STRIP_TRAILING_WHITESPACE
      ERROR_QUIET RESULT_VARIABLE torch_missing)
    if(NOT torch_missing)
      set(LDMTUNE_TORCH_ROOT ${torch_root} CACHE PATH "Folder that holds LibTorch's include and lib")
      break()
    endif()
  endforeach()
endif()
if(NOT EXISTS "${LDMTUNE_TORCH_ROOT}/include/ATen/ATen.h")
  message(FATAL_ERROR
    "LibTorch not found (looked in '${LDMTUNE_TORCH_ROOT}'). Run jobs/setup.sh, or give -DTorch_DIR=.../share/cmake/Torch, "
    "or -DLDMTUNE_PYTHON=/path/to/a/python that can import torch.")
endif()

file(READ "${LDMTUNE_TORCH_ROOT}/include/torch/headeronly/version.h" torch_version_header)
string(REGEX MATCH "TORCH_VERSION_MAJOR ([0-9]+)" _ "${torch_version_header}")
set(torch_major ${CMAKE_MATCH_1})
string(REGEX MATCH "TORCH_VERSION_MINOR ([0-9]+)" _ "${torch_version_header}")
set(LDMTUNE_TORCH_VERSION ${torch_major}.${CMAKE_MATCH_1})
if(LDMTUNE_TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR "LibTorch ${LDMTUNE_TORCH_VERSION} in ${LDMTUNE_TORCH_ROOT}: ldmtune needs 2.11 or newer.")
endif()

add_library(ldmtune_torch INTERFACE)
target_include_directories(ldmtune_torch SYSTEM INTERFACE
  ${LDMTUNE_TORCH_ROOT}/include ${LDMTUNE_TORCH_ROOT}/include/torch/csrc/api/include)
target_link_directories(ldmtune_torch INTERFACE ${LDMTUNE_TORCH_ROOT}/lib)
set(torch_libraries torch_cpu)
set(LDMTUNE_HAVE_CUDA OFF)
if(LDMTUNE_CUDA AND EXISTS "${LDMTUNE_TORCH_ROOT}/lib/libtorch_cuda.so")
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND)
    set(LDMTUNE_HAVE_CUDA ON)
    list(APPEND torch_libraries torch_cuda c10_cuda)
  endif()
endif()
target_link_libraries(ldmtune_torch INTERFACE
  -Wl,--no-as-needed ${torch_libraries} -Wl,--as-needed c10)
target_link_options(ldmtune_torch INTERFACE -Wl,-rpath,${LDMTUNE_TORCH_ROOT}/lib)
message(STATUS "LibTorch ${LDMTUNE_TORCH_VERSION} from ${LDMTUNE_TORCH_ROOT} (CUDA: ${LDMTUNE_HAVE_CUDA})")

set(LDMTUNE_HAVE_NCCL OFF)
if(LDMTUNE_HAVE_CUDA)
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${LDMTUNE_TORCH_ROOT}/../nvidia/nccl/include)
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${LDMTUNE_TORCH_ROOT}/../nvidia/nccl/lib)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    set(LDMTUNE_HAVE_NCCL ON)
  endif()
endif()

# Definitions are global, so that every target can share one precompiled header.
add_compile_definitions(OMPI_SKIP_MPICXX BOOST_LOG_DYN_LINK BOOST_ALL_NO_LIB)
if(LDMTUNE_HAVE_CUDA)
  add_compile_definitions(LDMTUNE_HAVE_CUDA=1)
endif()
if(LDMTUNE_HAVE_NCCL)
  add_compile_definitions(LDMTUNE_HAVE_NCCL=1)
endif()
