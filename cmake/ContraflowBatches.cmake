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
  set(script "${PROJECT_SOURCE_DIR}/cmake/batch.py")
  add_custom_command(OUTPUT "${batch}"
    COMMAND "${Python3_EXECUTABLE}" "${script}" "${batch}" ${ARGN}
    DEPENDS "${script}" ${ARGN} COMMENT "" VERBATIM)
  set(${variable} "${batch}" PARENT_SCOPE)
endfunction()
