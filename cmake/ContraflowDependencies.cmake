# What the library needs, for its own build and for an installed package alike: as packages where they
# are found, else fetched at a pinned version.

include(FetchContent)

# A header-only dependency as an imported target, so that the exported package only names it.
function(_contraflow_headers target name repository tag include_folder)
  message(STATUS "${name} is not installed: fetching ${tag}")
  # No such subfolder: only the sources are wanted, not the project.
  FetchContent_Declare(${name} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW TRUE
                       SOURCE_SUBDIR headers-only)
  FetchContent_MakeAvailable(${name})
  FetchContent_GetProperties(${name} SOURCE_DIR source)
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} INTERFACE "${source}/${include_folder}")
endfunction()

find_package(LibTorch 2.7 REQUIRED MODULE)

if(NOT TARGET Boost::headers)
  # Its own package, since CMake's module for it is gone in new releases.
  find_package(Boost 1.74 QUIET CONFIG)
endif()
if(NOT TARGET Boost::headers)
  # Hana stands alone; nothing else of Boost is used.
  _contraflow_headers(Boost::headers boost_hana https://github.com/boostorg/hana.git boost-1.83.0
                      include)
endif()

if(NOT TARGET nlohmann_json::nlohmann_json)
  find_package(nlohmann_json 3.10 QUIET)
endif()
if(NOT TARGET nlohmann_json::nlohmann_json)
  _contraflow_headers(nlohmann_json::nlohmann_json nlohmann_json
                      https://github.com/nlohmann/json.git v3.11.3 include)
endif()

if(NOT TARGET Random123::Random123)
  find_path(Random123_INCLUDE_DIR Random123/philox.h)
  mark_as_advanced(Random123_INCLUDE_DIR)
  if(Random123_INCLUDE_DIR)
    add_library(Random123::Random123 INTERFACE IMPORTED GLOBAL)
    target_include_directories(Random123::Random123 INTERFACE "${Random123_INCLUDE_DIR}")
  else()
    _contraflow_headers(Random123::Random123 random123
                        https://github.com/DEShawResearch/random123.git v1.14.0 include)
  endif()
endif()
