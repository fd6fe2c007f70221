#[=======================================================================[.rst:
FindLibTorch
------------

Finds LibTorch without the CUDA toolkit that the CUDA wheel's own TorchConfig.cmake insists on.

The first of these places that holds ``include/torch/csrc/api/include/torch/torch.h`` and
``lib/libtorch_cpu.so`` of a sufficient version is taken:

1. the prefixes of ``LibTorch_ROOT`` and ``CMAKE_PREFIX_PATH``, as variables or in the environment:
   a LibTorch distribution, a Python's ``torch`` package, or its ``torch/share/cmake``;
2. the ``torch`` package of the Python in the variable or environment variable ``PYTHON``,
   else of ``python3`` on the path; the package is located, not imported;
3. ``LibTorch_VENV``, else ``.venv`` in the top-level source folder.

``LibTorch_CUDA`` (AUTO, ON, OFF) says whether the CUDA half is linked too. AUTO links it where
``libtorch_cuda.so`` can be loaded with everything it needs, be there a CUDA toolkit or not; only
programs that include CUDA's own headers need one, and get its folder where it is found.

Defines ``LibTorch::LibTorch``, ``LibTorch_FOUND``, ``LibTorch_VERSION``, ``LibTorch_ROOT_DIR`` and
``LibTorch_CUDA_FOUND``. Run as a script (``cmake -P FindLibTorch.cmake``) it prints the folder found
and fails where there is none.
#]=======================================================================]

function(_libtorch_version root out)
  set(${out} "" PARENT_SCOPE)
  foreach(header torch/headeronly/version.h torch/csrc/api/include/torch/version.h)
    if(EXISTS "${root}/include/${header}")
      file(STRINGS "${root}/include/${header}" lines
           REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
      if(lines)
        string(REGEX MATCHALL "[0-9]+" numbers "${lines}")
        list(JOIN numbers "." version)
        set(${out} "${version}" PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

function(_libtorch_accept root out)
  set(${out} "" PARENT_SCOPE)
  if(NOT EXISTS "${root}/include/torch/csrc/api/include/torch/torch.h"
     OR NOT EXISTS "${root}/lib/libtorch_cpu.so")
    return()
  endif()
  _libtorch_version("${root}" version)
  if(LibTorch_FIND_VERSION AND version VERSION_LESS LibTorch_FIND_VERSION)
    message(STATUS "LibTorch ${version} in ${root} is older than ${LibTorch_FIND_VERSION}: passed over")
    return()
  endif()
  set(${out} "${root}" PARENT_SCOPE)
endfunction()

function(_libtorch_of_python python out)
  set(${out} "" PARENT_SCOPE)
  execute_process(
    COMMAND "${python}" -c
            "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
    OUTPUT_VARIABLE folder ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE failed)
  if(NOT failed AND folder)
    set(${out} "${folder}" PARENT_SCOPE)
  endif()
endfunction()

function(_libtorch_root out)
  set(prefixes ${LibTorch_ROOT} $ENV{LibTorch_ROOT} ${CMAKE_PREFIX_PATH})
  string(REPLACE ":" ";" from_environment "$ENV{CMAKE_PREFIX_PATH}")
  list(APPEND prefixes ${from_environment})
  set(candidates)
  foreach(prefix IN LISTS prefixes)
    get_filename_component(above_share "${prefix}/../.." ABSOLUTE)
    list(APPEND candidates "${prefix}" "${above_share}")
  endforeach()
  foreach(python "${PYTHON}" "$ENV{PYTHON}" python3)
    if(python)
      _libtorch_of_python("${python}" folder)
      list(APPEND candidates ${folder})
      break()
    endif()
  endforeach()
  if(NOT LibTorch_VENV)
    set(LibTorch_VENV "${CMAKE_SOURCE_DIR}/.venv")
  endif()
  file(GLOB from_venv "${LibTorch_VENV}/lib/python3*/site-packages/torch")
  list(APPEND candidates ${from_venv})
  foreach(candidate IN LISTS candidates)
    _libtorch_accept("${candidate}" accepted)
    if(accepted)
      break()
    endif()
  endforeach()
  set(${out} "${accepted}" PARENT_SCOPE)
endfunction()

# A wheel without the libraries that its CUDA half needs links but does not start: only loading tells.
function(_libtorch_cuda_loads root out)
  if(NOT DEFINED LibTorch_CUDA_LOADS)
    set(source "${CMAKE_CURRENT_BINARY_DIR}/CMakeFiles/libtorch_cuda_loads.cpp")
    file(WRITE "${source}" "#include <dlfcn.h>
int main() { return dlopen(\"${root}/lib/libtorch_cuda.so\", RTLD_LAZY) ? 0 : 1; }\n")
    try_run(status compiled "${CMAKE_CURRENT_BINARY_DIR}/CMakeFiles" "${source}"
            LINK_LIBRARIES ${CMAKE_DL_LIBS})
    if(compiled AND "${status}" STREQUAL "0")
      set(loads TRUE)
    else()
      set(loads FALSE)
    endif()
    set(LibTorch_CUDA_LOADS ${loads} CACHE INTERNAL "libtorch_cuda.so loads with all it needs")
  endif()
  set(${out} ${LibTorch_CUDA_LOADS} PARENT_SCOPE)
endfunction()

function(_libtorch_library name root)
  if(NOT TARGET LibTorch::${name})
    add_library(LibTorch::${name} SHARED IMPORTED)
    set_target_properties(LibTorch::${name} PROPERTIES
                          IMPORTED_LOCATION "${root}/lib/lib${name}.so")
  endif()
endfunction()

_libtorch_root(LibTorch_ROOT_DIR)

if(CMAKE_SCRIPT_MODE_FILE)
  if(NOT LibTorch_ROOT_DIR)
    message(FATAL_ERROR "no LibTorch found")
  endif()
  message("${LibTorch_ROOT_DIR}")
  return()
endif()

set(LibTorch_VERSION "")
if(LibTorch_ROOT_DIR)
  _libtorch_version("${LibTorch_ROOT_DIR}" LibTorch_VERSION)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(LibTorch
  REQUIRED_VARS LibTorch_ROOT_DIR
  VERSION_VAR LibTorch_VERSION
  REASON_FAILURE_MESSAGE
    "put a LibTorch on CMAKE_PREFIX_PATH, set PYTHON to a Python that has torch, or run scripts/setup")

if(LibTorch_FOUND AND NOT TARGET LibTorch::LibTorch)
  set(LibTorch_CUDA "AUTO" CACHE STRING "Link the CUDA half of LibTorch: AUTO, ON or OFF")
  set_property(CACHE LibTorch_CUDA PROPERTY STRINGS AUTO ON OFF)
  set(LibTorch_CUDA_FOUND FALSE)
  if(LibTorch_CUDA AND EXISTS "${LibTorch_ROOT_DIR}/lib/libtorch_cuda.so")
    _libtorch_cuda_loads("${LibTorch_ROOT_DIR}" LibTorch_CUDA_FOUND)
  endif()
  if(NOT LibTorch_CUDA_FOUND AND LibTorch_CUDA AND NOT LibTorch_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "LibTorch_CUDA is ON, but no libtorch_cuda.so in ${LibTorch_ROOT_DIR}/lib "
                        "loads with all it needs")
  endif()

  add_library(LibTorch::LibTorch INTERFACE IMPORTED)
  # Given as system includes by being imported: LibTorch's headers are not held to our warnings.
  target_include_directories(LibTorch::LibTorch INTERFACE
    "${LibTorch_ROOT_DIR}/include" "${LibTorch_ROOT_DIR}/include/torch/csrc/api/include")
  target_compile_definitions(LibTorch::LibTorch INTERFACE _GLIBCXX_USE_CXX11_ABI=1)
  find_package(Threads REQUIRED)
  _libtorch_library(torch_cpu "${LibTorch_ROOT_DIR}")
  _libtorch_library(c10 "${LibTorch_ROOT_DIR}")
  target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::torch_cpu LibTorch::c10 Threads::Threads)
  # The CUDA-built wheel's host library needs the CUDA runtime, which pip puts beside the package.
  file(GLOB _libtorch_beside "${LibTorch_ROOT_DIR}/../nvidia/*/lib")
  foreach(_libtorch_folder IN LISTS _libtorch_beside)
    target_link_options(LibTorch::LibTorch INTERFACE "LINKER:-rpath-link,${_libtorch_folder}")
  endforeach()
  if(LibTorch_CUDA_FOUND)
    _libtorch_library(torch_cuda "${LibTorch_ROOT_DIR}")
    _libtorch_library(c10_cuda "${LibTorch_ROOT_DIR}")
    find_package(CUDAToolkit QUIET)
    if(CUDAToolkit_FOUND)
      target_include_directories(LibTorch::LibTorch INTERFACE ${CUDAToolkit_INCLUDE_DIRS})
    endif()
    # No symbol of it is used by name: its operators register when it is loaded.
    target_link_options(LibTorch::LibTorch INTERFACE
      "LINKER:--no-as-needed,${LibTorch_ROOT_DIR}/lib/libtorch_cuda.so,--as-needed")
    target_link_libraries(LibTorch::LibTorch INTERFACE LibTorch::torch_cuda LibTorch::c10_cuda)
  endif()
endif()
