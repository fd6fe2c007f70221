# What contraflow::sd3 needs beyond contraflow::contraflow: libpng, libjpeg, ICU, SentencePiece and
# cpp-httplib. For the library's own build and for an installed package alike.
#
# contraflow_find_sd3(<missing> FETCH <bool>) defines PNG::PNG, JPEG::JPEG, ICU::uc,
# SentencePiece::sentencepiece and httplib::httplib, and sets <missing> to the names of what there is
# not. With FETCH, SentencePiece and cpp-httplib are fetched at a pinned version where they are not
# installed; the others come with every system.

include_guard(GLOBAL)
include(FetchContent)

# A library that installs a .pc file, whose flags are part of its interface: cpp-httplib's classes have
# other layouts without the macros it was compiled with.
function(_contraflow_sd3_from_pkg_config target module)
  find_package(PkgConfig QUIET)
  if(NOT PkgConfig_FOUND)
    return()
  endif()
  string(MAKE_C_IDENTIFIER "contraflow_${module}" prefix)
  pkg_check_modules(${prefix} QUIET IMPORTED_TARGET GLOBAL ${module})
  if(${prefix}_FOUND)
    add_library(${target} INTERFACE IMPORTED GLOBAL)
    target_link_libraries(${target} INTERFACE PkgConfig::${prefix})
  endif()
endfunction()

function(_contraflow_sd3_sentencepiece fetch)
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
    FetchContent_Declare(sentencepiece GIT_REPOSITORY https://github.com/google/sentencepiece.git
                         GIT_TAG v0.2.0 GIT_SHALLOW TRUE)
    FetchContent_GetProperties(sentencepiece)
    if(NOT sentencepiece_POPULATED)
      FetchContent_Populate(sentencepiece)
      set(SPM_ENABLE_SHARED OFF)
      set(SPM_ENABLE_TCMALLOC OFF)
      set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)
      set(CMAKE_POLICY_VERSION_MINIMUM 3.5)
      # Not among what is built or installed by default.
      add_subdirectory("${sentencepiece_SOURCE_DIR}" "${sentencepiece_BINARY_DIR}" EXCLUDE_FROM_ALL)
    endif()
    add_library(SentencePiece::sentencepiece INTERFACE IMPORTED GLOBAL)
    target_include_directories(SentencePiece::sentencepiece INTERFACE
                               "${sentencepiece_SOURCE_DIR}/src")
    target_link_libraries(SentencePiece::sentencepiece INTERFACE sentencepiece-static)
  endif()
endfunction()

function(_contraflow_sd3_httplib fetch)
  find_package(httplib 0.11 QUIET CONFIG)
  if(NOT TARGET httplib::httplib)
    _contraflow_sd3_from_pkg_config(httplib::httplib cpp-httplib)
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

function(contraflow_find_sd3 missing)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "FETCH" "")
  find_package(PNG QUIET)
  find_package(JPEG QUIET)
  find_package(ICU QUIET COMPONENTS uc)
  if(NOT TARGET SentencePiece::sentencepiece)
    _contraflow_sd3_sentencepiece("${arg_FETCH}")
  endif()
  if(NOT TARGET httplib::httplib)
    _contraflow_sd3_httplib("${arg_FETCH}")
  endif()
  set(absent)
  foreach(pair "PNG::PNG libpng" "JPEG::JPEG libjpeg" "ICU::uc ICU"
               "SentencePiece::sentencepiece SentencePiece" "httplib::httplib cpp-httplib")
    separate_arguments(pair)
    list(GET pair 0 target)
    list(GET pair 1 name)
    if(NOT TARGET ${target})
      list(APPEND absent ${name})
    endif()
  endforeach()
  set(${missing} "${absent}" PARENT_SCOPE)
endfunction()
