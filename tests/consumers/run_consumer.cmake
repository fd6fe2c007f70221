# Makes a user's project of lines of README, then configures, builds and runs it from nothing.

cmake_minimum_required(VERSION 3.25)

# What stands in the fence behind `<!-- consumer: <name> -->`.
function(lines_of name out)
  file(READ "${readme}" text)
  string(REGEX MATCH "<!-- consumer: ${name} -->\n+```cmake\n([^`]*)```" found "${text}")
  if(NOT found)
    message(FATAL_ERROR "README.md has no fence of code behind <!-- consumer: ${name} -->")
  endif()
  # What the reader fills in, such as <commit>.
  string(REGEX REPLACE "<[^>]*>" "filled-in" lines "${CMAKE_MATCH_1}")
  set(${out} "${lines}" PARENT_SCOPE)
endfunction()

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# Warnings of CMake would be the user's to read.
function(configure)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY
                  ERROR_VARIABLE errors ECHO_ERROR_VARIABLE)
  if(errors MATCHES "CMake [A-Za-z ]*Warning")
    message(FATAL_ERROR "configuring warns")
  endif()
endfunction()

file(REMOVE_RECURSE "${build}")
set(project "${build}/project")
file(MAKE_DIRECTORY "${project}/third_party")
file(CREATE_LINK "${contraflow_source}" "${project}/third_party/contraflow" SYMBOLIC)
file(COPY_FILE "${source}" "${project}/main.cpp")
# The policies of the newest CMake that README's reader may ask for.
set(text "cmake_minimum_required(VERSION 3.25...4.2)\nproject(my_program LANGUAGES CXX)\n\n")
string(REPLACE "," ";" fences "${fences}")
foreach(fence IN LISTS fences)
  lines_of(${fence} lines)
  string(APPEND text "${lines}\n")
endforeach()
file(WRITE "${project}/CMakeLists.txt" "${text}")

set(arguments
  -G "${generator}"
  "-DCMAKE_CXX_COMPILER=${compiler}"
  "-DCMAKE_PREFIX_PATH=${libtorch}")
if("fetched" IN_LIST fences)
  # What is fetched is this checkout, not the published one.
  list(APPEND arguments "-DFETCHCONTENT_SOURCE_DIR_CONTRAFLOW=${contraflow_source}")
endif()
if(installed)
  # An installed package must not remember where it was first put, nor where it was built.
  run("${CMAKE_COMMAND}" --install "${contraflow_build}" --prefix "${build}/first")
  file(RENAME "${build}/first" "${build}/moved")
  list(APPEND arguments "-Dcontraflow_ROOT=${build}/moved")
endif()

configure("${CMAKE_COMMAND}" -S "${project}" -B "${build}/build" ${arguments})
run("${CMAKE_COMMAND}" --build "${build}/build")
run("${build}/build/my_program")
