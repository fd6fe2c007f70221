# Flags and tools of our own tests, examples and benchmarks; nothing here reaches a user of the target.

add_library(contraflow_development INTERFACE)
target_link_libraries(contraflow_development INTERFACE contraflow::contraflow)
target_compile_options(contraflow_development INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion>
  $<$<AND:$<BOOL:${CONTRAFLOW_WARNINGS_AS_ERRORS}>,$<COMPILE_LANGUAGE:CXX>>:-Werror>
  $<$<AND:$<BOOL:${CONTRAFLOW_NATIVE}>,$<COMPILE_LANGUAGE:CXX>>:-march=native>)

# g++ 12 and 13 see overflows in inlined code of the standard library and LibTorch that has none.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(contraflow_development INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict -Wno-stringop-overflow -Wno-stringop-overread
                              -Wno-array-bounds>)
  # Its garbage collector walks the precompiled header each time: a seventh of the time of a file, for
  # a seventh of its memory.
  target_compile_options(contraflow_development INTERFACE
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:--param ggc-min-heapsize=4000000>")
endif()

# With LibTorch parsed once, optimising is most of what a test takes to compile: -O1 takes half as long as
# -O3, and -Og of g++, whose kernels are three times slower, a third less than -O1.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(CONTRAFLOW_TEST_OPTIMISATION -Og)
else()
  set(CONTRAFLOW_TEST_OPTIMISATION -O1)
endif()

if(CONTRAFLOW_QUICK_PROGRAMS)
  message(STATUS "Examples and benchmarks are compiled at -O1, for tests; to time or use them, "
                 "configure with -D CONTRAFLOW_QUICK_PROGRAMS=OFF")
  target_compile_options(contraflow_development INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-O1>)
endif()

# A program whose times are of interest: it says so where they are not those of a release.
function(contraflow_timed_program name)
  if(NOT CONTRAFLOW_QUICK_PROGRAMS)
    return()
  endif()
  set(source "${CMAKE_CURRENT_BINARY_DIR}/compiled_for_tests.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "#include <cstdio>
static const int said = std::fputs(
    \"compiled at -O1 for tests: -D CONTRAFLOW_QUICK_PROGRAMS=OFF before timing\\n\", stderr);
int compiled_for_tests() { return said; }
" @ONLY)
  target_sources(${name} PRIVATE "${source}")
  set_source_files_properties("${source}" PROPERTIES SKIP_PRECOMPILE_HEADERS ON)
endfunction()

if(CONTRAFLOW_SANITIZE)
  string(REPLACE ";" "," sanitizers "${CONTRAFLOW_SANITIZE}")
  # Instrumented code at -O3 takes several times as long to compile and finds no more.
  target_compile_options(contraflow_development INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-O1 -g1 -fsanitize=${sanitizers} -fno-omit-frame-pointer
                              -fno-sanitize-recover=all>)
  target_link_options(contraflow_development INTERFACE -fsanitize=${sanitizers})
endif()

# LibTorch keeps some memory until the process ends; that is not ours to report.
set(CONTRAFLOW_TEST_ENVIRONMENT
    "ASAN_OPTIONS=detect_leaks=0" "UBSAN_OPTIONS=print_stacktrace=1")

# Parsing LibTorch dominates compile time, so it is parsed once for each set of flags: what the library
# includes of it, and no more. With <torch/torch.h> in its place g++ instantiates, at the end of every
# file, the templates that all of LibTorch's inline functions name: 8 seconds a file instead of 5.
set(CONTRAFLOW_PARSED_ONCE
  <ATen/ATen.h> <ATen/Parallel.h> <torch/csrc/autograd/custom_function.h> <torch/nn/cloneable.h>
  <torch/nn/modules/linear.h> <torch/optim/adamw.h> <nlohmann/json.hpp>)

# contraflow_precompiled_headers(<name> HEADERS <header>... LIBRARIES <target>... OPTIONS <option>...)
function(contraflow_precompiled_headers name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "HEADERS;LIBRARIES;OPTIONS")
  set(source "${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "// Only carries the precompiled header.\n")
  add_library(${name} OBJECT "${source}")
  target_link_libraries(${name} PRIVATE contraflow_development ${arg_LIBRARIES})
  target_compile_options(${name} PRIVATE ${arg_OPTIONS})
  target_precompile_headers(${name} PRIVATE ${CONTRAFLOW_PARSED_ONCE} ${arg_HEADERS})
endfunction()

# Command lines of examples and of the programs beside the benchmarks.
find_package(CLI11 QUIET)
if(NOT CLI11_FOUND)
  message(STATUS "CLI11 is not installed: fetching v2.4.2")
  FetchContent_Declare(CLI11 GIT_REPOSITORY https://github.com/CLIUtils/CLI11.git GIT_TAG v2.4.2
                       GIT_SHALLOW TRUE SYSTEM)
  FetchContent_MakeAvailable(CLI11)
endif()

if(CONTRAFLOW_BUILD_EXAMPLES OR CONTRAFLOW_BUILD_BENCHMARKS)
  contraflow_precompiled_headers(contraflow_program_headers)
endif()

# Writes the flags of a user of the given targets into a file for a compiler's command line, whose path
# becomes the value of <variable>. <name> is of the target that carries them.
function(contraflow_user_flags name variable)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/${name}.cpp")
  file(CONFIGURE OUTPUT "${source}" CONTENT "// Only carries the flags of a user of the library.\n")
  add_library(${name} OBJECT EXCLUDE_FROM_ALL "${source}")
  target_link_libraries(${name} PRIVATE ${ARGN})
  set(file "${CMAKE_CURRENT_BINARY_DIR}/${name}.txt")
  set(folders "$<REMOVE_DUPLICATES:$<TARGET_PROPERTY:${name},INCLUDE_DIRECTORIES>>")
  set(definitions "$<TARGET_PROPERTY:${name},COMPILE_DEFINITIONS>")
  # A system folder given again would end the search of the standard library's own headers.
  set(folders "$<FILTER:${folders},EXCLUDE,^/usr/include$>")
  file(GENERATE OUTPUT "${file}" CONTENT
"-std=c++20
-D$<JOIN:${definitions},
-D>
-isystem
$<JOIN:${folders},
-isystem
>
" TARGET ${name})
  set(${variable} "${file}" PARENT_SCOPE)
endfunction()

# mpirun, told as Open MPI 4 and 5 are of more ranks than cores, and of root in containers.
if(MPIEXEC_EXECUTABLE)
  set(CONTRAFLOW_MPIRUN "${CMAKE_COMMAND}" -E env
      OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
      OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
      PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe "${MPIEXEC_EXECUTABLE}")
endif()
