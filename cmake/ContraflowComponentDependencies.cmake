# What the components of contraflow need beyond contraflow::contraflow. For the library's own build and
# for an installed package alike.
#
# contraflow_find_components(<found> <missing> COMPONENTS <name>... FETCH <bool>) defines the targets of
# their libraries. <found> gets the components that are complete, those that others need among them and
# before them; <missing> a sentence for each that is not. With FETCH, SentencePiece and cpp-httplib are
# fetched at a pinned version where they are not installed; the others come with every system.

include_guard(GLOBAL)
include(FetchContent)

# Those that any machine can have, and all.
set(CONTRAFLOW_HOST_COMPONENTS images text http ocr mpi sd3 flux)
set(CONTRAFLOW_ALL_COMPONENTS ${CONTRAFLOW_HOST_COMPONENTS} nccl)
set(CONTRAFLOW_LIBRARIES_images PNG::PNG JPEG::JPEG)
set(CONTRAFLOW_LIBRARIES_text ICU::uc SentencePiece::sentencepiece)
set(CONTRAFLOW_LIBRARIES_http httplib::httplib)
set(CONTRAFLOW_LIBRARIES_ocr Tesseract::tesseract)
set(CONTRAFLOW_LIBRARIES_mpi MPI::MPI_CXX)
set(CONTRAFLOW_LIBRARIES_nccl NCCL::nccl)
set(CONTRAFLOW_NEEDS_http images)
set(CONTRAFLOW_NEEDS_ocr text)
set(CONTRAFLOW_NEEDS_sd3 text)
set(CONTRAFLOW_NEEDS_flux text)

# A library of one or more .pc files, whose flags are part of its interface: cpp-httplib's classes have
# other layouts without the macros it was compiled with.
function(_contraflow_from_pkg_config target)
  find_package(PkgConfig QUIET)
  if(NOT PkgConfig_FOUND)
    return()
  endif()
  string(MAKE_C_IDENTIFIER "contraflow_${target}" prefix)
  pkg_check_modules(${prefix} QUIET IMPORTED_TARGET GLOBAL ${ARGN})
  if(${prefix}_FOUND)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(${target} INTERFACE PkgConfig::${prefix})
  endif()
endfunction()

function(_contraflow_find_images fetch)
  find_package(PNG QUIET)
  find_package(JPEG QUIET)
endfunction()

function(_contraflow_find_text fetch)
  find_package(ICU QUIET COMPONENTS uc)
  if(NOT TARGET SentencePiece::sentencepiece)
    _contraflow_find_sentencepiece("${fetch}")
  endif()
endfunction()

function(_contraflow_find_sentencepiece fetch)
  find_path(CONTRAFLOW_SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
  find_library(CONTRAFLOW_SENTENCEPIECE_LIBRARY sentencepiece)
  mark_as_advanced(CONTRAFLOW_SENTENCEPIECE_INCLUDE CONTRAFLOW_SENTENCEPIECE_LIBRARY)
  if(CONTRAFLOW_SENTENCEPIECE_INCLUDE AND CONTRAFLOW_SENTENCEPIECE_LIBRARY)
    add_library(SentencePiece::sentencepiece UNKNOWN IMPORTED GLOBAL)
    set_target_properties(SentencePiece::sentencepiece PROPERTIES
      IMPORTED_LOCATION "${CONTRAFLOW_SENTENCEPIECE_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${CONTRAFLOW_SENTENCEPIECE_INCLUDE}")
    # SentencePiece and LibTorch both export a FLAGS_minloglevel, of 32 bytes and of 4: the first one
    # loaded serves both. LibTorch's would be overrun before main, and with it the lock behind it
    # that TorchScript takes: it never returns. LibTorch only uses its own to parse command lines.
    # So SentencePiece is loaded first.
    if(UNIX AND NOT APPLE)
      set_target_properties(SentencePiece::sentencepiece PROPERTIES INTERFACE_LINK_OPTIONS
        "LINKER:--push-state,--no-as-needed,${CONTRAFLOW_SENTENCEPIECE_LIBRARY},--pop-state")
    endif()
  elseif(fetch)
    message(STATUS "SentencePiece is not installed: fetching v0.2.0")
    # No such subfolder: the project is added below, not among what is built or installed by default.
    FetchContent_Declare(sentencepiece GIT_REPOSITORY https://github.com/google/sentencepiece.git
                         GIT_TAG v0.2.0 GIT_SHALLOW TRUE SOURCE_SUBDIR headers-only)
    FetchContent_MakeAvailable(sentencepiece)
    FetchContent_GetProperties(sentencepiece SOURCE_DIR source BINARY_DIR binary)
    if(NOT TARGET sentencepiece-static)
      set(SPM_ENABLE_SHARED OFF)
      set(SPM_ENABLE_TCMALLOC OFF)
      set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
      # It asks for a CMake of 2014, which CMake 4 refuses without this.
      set(CMAKE_POLICY_VERSION_MINIMUM 3.25)
      add_subdirectory("${source}" "${binary}" EXCLUDE_FROM_ALL)
    endif()
    add_library(SentencePiece::sentencepiece INTERFACE IMPORTED GLOBAL)
    target_include_directories(SentencePiece::sentencepiece INTERFACE "${source}/src")
    target_link_libraries(SentencePiece::sentencepiece INTERFACE sentencepiece-static)
  endif()
endfunction()

function(_contraflow_find_http fetch)
  find_package(httplib 0.11 QUIET CONFIG)
  if(NOT TARGET httplib::httplib)
    _contraflow_from_pkg_config(httplib::httplib cpp-httplib)
  endif()
  if(NOT TARGET httplib::httplib AND fetch)
    message(STATUS "cpp-httplib is not installed: fetching v0.15.3")
    # No such subfolder: the one header is wanted, not the project.
    FetchContent_Declare(httplib GIT_REPOSITORY https://github.com/yhirose/cpp-httplib.git
                         GIT_TAG v0.15.3 GIT_SHALLOW TRUE SOURCE_SUBDIR headers-only)
    FetchContent_MakeAvailable(httplib)
    FetchContent_GetProperties(httplib SOURCE_DIR source)
    find_package(Threads REQUIRED)
    add_library(httplib::httplib INTERFACE IMPORTED GLOBAL)
    target_include_directories(httplib::httplib INTERFACE "${source}")
    target_link_libraries(httplib::httplib INTERFACE Threads::Threads)
  endif()
endfunction()

function(_contraflow_find_ocr fetch)
  if(NOT TARGET Tesseract::tesseract)
    # Leptonica holds Tesseract's images; its messages are switched off.
    _contraflow_from_pkg_config(Tesseract::tesseract "tesseract>=5" lept)
  endif()
endfunction()

function(_contraflow_find_mpi fetch)
  # The bindings for C++ that MPI once had are not used.
  set(MPI_CXX_SKIP_MPICXX TRUE)
  find_package(MPI QUIET COMPONENTS CXX)
  # A target of this folder alone otherwise; programs of the project are elsewhere.
  if(TARGET MPI::MPI_CXX)
    set_target_properties(MPI::MPI_CXX PROPERTIES IMPORTED_GLOBAL TRUE)
  endif()
endfunction()

# NCCL and the headers of the CUDA runtime that its own includes: of the system, of a CUDA toolkit, or as
# pip lays them beside torch. Of use with the CUDA half of LibTorch alone.
function(_contraflow_find_nccl fetch)
  if(TARGET NCCL::nccl)
    return()
  endif()
  find_package(CUDAToolkit QUIET)
  file(GLOB beside_torch "${LibTorch_ROOT_DIR}/../nvidia/*")
  set(places ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR} ${beside_torch})
  find_path(CONTRAFLOW_NCCL_INCLUDE nccl.h HINTS ${places} PATH_SUFFIXES include)
  find_path(CONTRAFLOW_CUDA_INCLUDE cuda_runtime.h HINTS ${places} PATH_SUFFIXES include)
  find_library(CONTRAFLOW_NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${places} PATH_SUFFIXES lib)
  mark_as_advanced(CONTRAFLOW_NCCL_INCLUDE CONTRAFLOW_CUDA_INCLUDE CONTRAFLOW_NCCL_LIBRARY)
  if(LibTorch_CUDA_FOUND AND CONTRAFLOW_NCCL_INCLUDE AND CONTRAFLOW_CUDA_INCLUDE AND
     CONTRAFLOW_NCCL_LIBRARY)
    add_library(NCCL::nccl UNKNOWN IMPORTED GLOBAL)
    set_target_properties(NCCL::nccl PROPERTIES
      IMPORTED_LOCATION "${CONTRAFLOW_NCCL_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${CONTRAFLOW_NCCL_INCLUDE};${CONTRAFLOW_CUDA_INCLUDE}")
  endif()
endfunction()

function(_contraflow_find_sd3 fetch)
endfunction()

function(_contraflow_find_flux fetch)
endfunction()

function(contraflow_find_components found missing)
  cmake_parse_arguments(PARSE_ARGV 2 arg "" "FETCH" "COMPONENTS")
  set(names_PNG::PNG libpng)
  set(names_JPEG::JPEG libjpeg)
  set(names_ICU::uc ICU)
  set(names_SentencePiece::sentencepiece SentencePiece)
  set(names_httplib::httplib cpp-httplib)
  set(names_Tesseract::tesseract "Tesseract 5 with Leptonica")
  set(names_MPI::MPI_CXX MPI)
  set(names_NCCL::nccl "NCCL, CUDA's headers and LibTorch for CUDA")
  set(complete)
  set(sentences)
  foreach(component IN LISTS arg_COMPONENTS)
    if(NOT component IN_LIST CONTRAFLOW_ALL_COMPONENTS)
      list(JOIN CONTRAFLOW_ALL_COMPONENTS ", " all)
      list(APPEND sentences "contraflow has no component ${component}, only ${all}")
      continue()
    endif()
    set(absent)
    foreach(part IN LISTS CONTRAFLOW_NEEDS_${component} ITEMS ${component})
      cmake_language(CALL _contraflow_find_${part} "${arg_FETCH}")
      foreach(library IN LISTS CONTRAFLOW_LIBRARIES_${part})
        if(NOT TARGET ${library})
          list(APPEND absent ${names_${library}})
        endif()
      endforeach()
    endforeach()
    if(absent)
      list(JOIN absent ", " absent)
      list(APPEND sentences "contraflow::${component} needs ${absent}")
    else()
      list(APPEND complete ${CONTRAFLOW_NEEDS_${component}} ${component})
    endif()
  endforeach()
  if(complete)
    list(REMOVE_DUPLICATES complete)
  endif()
  set(${found} "${complete}" PARENT_SCOPE)
  set(${missing} "${sentences}" PARENT_SCOPE)
endfunction()
