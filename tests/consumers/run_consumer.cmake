# Configures, builds and runs one user's project from nothing.

function(run)
  execute_process(COMMAND ${ARGN} COMMAND_ECHO STDOUT COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE "${build}")
set(arguments
  -G "${generator}"
  "-DCMAKE_CXX_COMPILER=${compiler}"
  "-DCONTRAFLOW_SOURCE=${contraflow_source}"
  "-DCMAKE_PREFIX_PATH=${libtorch}")

get_filename_component(name "${project}" NAME)
if(name STREQUAL "found")
  # An installed package must not remember where it was first put, nor where it was built.
  run("${CMAKE_COMMAND}" --install "${contraflow_build}" --prefix "${build}/first")
  file(RENAME "${build}/first" "${build}/moved")
  list(APPEND arguments "-Dcontraflow_ROOT=${build}/moved")
endif()

run("${CMAKE_COMMAND}" -S "${project}" -B "${build}/build" ${arguments})
run("${CMAKE_COMMAND}" --build "${build}/build")
run("${build}/build/consumer")
if(EXISTS "${build}/build/consumer_sd3")
  run("${build}/build/consumer_sd3")
endif()
