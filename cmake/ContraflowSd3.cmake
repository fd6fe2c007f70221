# The target contraflow::sd3: headers that need libraries for images, text and HTTP. It links
# contraflow::contraflow, which needs none of them.

set(CONTRAFLOW_SD3 "AUTO" CACHE STRING
    "contraflow::sd3. AUTO: where its libraries are installed; ON: fetch what can be; OFF: leave out")
set_property(CACHE CONTRAFLOW_SD3 PROPERTY STRINGS AUTO ON OFF)

# What belongs to contraflow::sd3, as <room>/<name>: of headers and of their tests.
set(CONTRAFLOW_SD3_FILES "(^|/)((sd3|pipeline)/[^/]*|text/[^/]*|io/image|reward/(image|remote|clip_score[a-z_]*))\\.[a-z]+$")

set(CONTRAFLOW_HAS_SD3 FALSE)
if(CONTRAFLOW_SD3)
  include(ContraflowSd3Dependencies)
  string(COMPARE NOTEQUAL "${CONTRAFLOW_SD3}" "AUTO" insist)
  contraflow_find_sd3(missing FETCH ${insist})
  list(JOIN missing ", " missing)
  if(NOT missing)
    set(CONTRAFLOW_HAS_SD3 TRUE)
  elseif(insist)
    message(FATAL_ERROR "contraflow::sd3 needs ${missing}: run scripts/setup")
  else()
    message(STATUS "contraflow::sd3 is left out, with its programs and tests: there is no ${missing}")
  endif()
else()
  message(STATUS "contraflow::sd3 is left out, with its programs and tests: CONTRAFLOW_SD3 is OFF")
endif()

# Takes the files of contraflow::sd3 out of a list of sources where there is no such target.
function(contraflow_leave_out_sd3 list_of_sources)
  if(NOT CONTRAFLOW_HAS_SD3)
    list(FILTER ${list_of_sources} EXCLUDE REGEX "${CONTRAFLOW_SD3_FILES}")
    set(${list_of_sources} "${${list_of_sources}}" PARENT_SCOPE)
  endif()
endfunction()

if(CONTRAFLOW_HAS_SD3)
  set(sd3_headers ${headers})
  list(FILTER sd3_headers INCLUDE REGEX "${CONTRAFLOW_SD3_FILES}")
  add_library(contraflow_sd3 INTERFACE)
  add_library(contraflow::sd3 ALIAS contraflow_sd3)
  target_sources(contraflow_sd3 INTERFACE
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${sd3_headers})
  target_link_libraries(contraflow_sd3 INTERFACE
    contraflow PNG::PNG JPEG::JPEG ICU::uc SentencePiece::sentencepiece httplib::httplib)
  set_target_properties(contraflow_sd3 PROPERTIES
    EXPORT_NAME sd3 VERIFY_INTERFACE_HEADER_SETS ON INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
endif()
