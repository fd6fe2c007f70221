# Several source files compiled as one.
#
# Most of the time of a small file goes into what it has in common with the others: headers, and
# templates that LibTorch and the library make of them.

# contraflow_batches(<name> <variable> <lines> <source>...) puts sources into the value of <variable>
# that hold the given ones, several each for as long as they stay below <lines> lines. Files that open
# a namespace of others or have a main function are left as they are.
function(contraflow_batches name variable lines)
  set(result)
  set(batch)
  set(size 0)
  foreach(source IN LISTS ARGN)
    file(STRINGS "${source}" text)
    list(LENGTH text length)
    file(STRINGS "${source}" of_others REGEX "^(namespace [a-z_:]+ {|int main)" LIMIT_COUNT 1)
    if(of_others)
      list(APPEND result "${source}")
      continue()
    endif()
    math(EXPR size "${size} + ${length}")
    if(batch AND size GREATER lines)
      _contraflow_batch("${name}" source_of_batch ${batch})
      list(APPEND result "${source_of_batch}")
      set(batch)
      set(size ${length})
    endif()
    list(APPEND batch "${source}")
  endforeach()
  if(batch)
    _contraflow_batch("${name}" source_of_batch ${batch})
    list(APPEND result "${source_of_batch}")
  endif()
  set(${variable} "${result}" PARENT_SCOPE)
endfunction()

function(_contraflow_batch name variable)
  list(GET ARGN 0 first)
  list(LENGTH ARGN count)
  if(count EQUAL 1)
    set(${variable} "${first}" PARENT_SCOPE)
    return()
  endif()
  get_filename_component(stem "${first}" NAME_WE)
  set(batch "${CMAKE_CURRENT_BINARY_DIR}/batches/${name}_from_${stem}.cpp")
  _contraflow_write_batch("${batch}" ${ARGN})
  set(${variable} "${batch}" PARENT_SCOPE)
endfunction()

function(_contraflow_write_batch batch)
  cmake_parse_arguments(PARSE_ARGV 1 arg "PROGRAMS" "" "")
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(script "${PROJECT_SOURCE_DIR}/cmake/batch.py")
  set(mode)
  if(arg_PROGRAMS)
    set(mode --programs)
  endif()
  add_custom_command(OUTPUT "${batch}"
    COMMAND "${Python3_EXECUTABLE}" "${script}" ${mode} "${batch}" ${arg_UNPARSED_ARGUMENTS}
    DEPENDS "${script}" ${arg_UNPARSED_ARGUMENTS} COMMENT "" VERBATIM)
endfunction()

# Makes <name> a program of several sources that have a main function each. It is the one of them by
# whose name it is called, and beside it lies a link of each name to it.
function(contraflow_batch_of_programs name)
  set(batch "${CMAKE_CURRENT_BINARY_DIR}/batches/${name}.cpp")
  _contraflow_write_batch("${batch}" PROGRAMS ${ARGN})
  add_executable(${name} "${batch}")
  foreach(source IN LISTS ARGN)
    get_filename_component(program "${source}" NAME_WE)
    contraflow_link(${name} ${program})
  endforeach()
endfunction()

# Lets a program be called by another name too.
function(contraflow_link target name)
  set(link "$<TARGET_FILE_DIR:${target}>/${name}")
  add_custom_command(TARGET ${target} POST_BUILD
    COMMAND ${CMAKE_COMMAND} -E create_symlink "$<TARGET_FILE_NAME:${target}>" "${link}"
            || ${CMAKE_COMMAND} -E copy "$<TARGET_FILE:${target}>" "${link}"
    VERBATIM)
endfunction()
