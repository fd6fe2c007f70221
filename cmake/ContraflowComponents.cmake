# The targets beside contraflow::contraflow, each with the headers that need its libraries:
#
#   contraflow::images   libpng, libjpeg         PNG and JPEG files
#   contraflow::text     ICU, SentencePiece      tokenizers, and what reads text with them
#   contraflow::http     cpp-httplib             rewards from another process
#   contraflow::ocr      Tesseract 5             text in images as a reward
#   contraflow::mpi      MPI                     ranks that are processes
#   contraflow::nccl     NCCL, LibTorch for CUDA ranks with a GPU each
#   contraflow::sd3      nothing of its own      Stable Diffusion 3.5
#   contraflow::flux     nothing of its own      FLUX.1
#
# A header belongs to exactly one target; what stands in none of the lists below belongs to
# contraflow::contraflow. tests/structure/targets.py holds them to what they include.

set(CONTRAFLOW_COMPONENTS "AUTO" CACHE STRING
    "Targets beside contraflow::contraflow. AUTO: those whose libraries are installed; else a list of \
images, text, http, ocr, mpi, nccl, sd3 and flux, whose libraries are fetched where they can be; NONE: no others")
set_property(CACHE CONTRAFLOW_COMPONENTS PROPERTY STRINGS AUTO NONE "images;text;http;ocr;mpi;nccl;sd3;flux")

set(CONTRAFLOW_HEADERS_images io/image.hpp io/jpeg.hpp io/png.hpp observe/picture.hpp reward/jpeg_size.hpp)
set(CONTRAFLOW_HEADERS_text text/*.hpp reward/clip_score.hpp reward/ocr_text.hpp
                            pipeline/model_folder.hpp pipeline/text_states.hpp
                            pipeline/random_weights.hpp)
set(CONTRAFLOW_HEADERS_http reward/http.hpp reward/remote.hpp reward/chat_judge.hpp)
set(CONTRAFLOW_HEADERS_ocr reward/ocr.hpp)
set(CONTRAFLOW_HEADERS_mpi distributed/mpi.hpp)
set(CONTRAFLOW_HEADERS_nccl distributed/nccl.hpp)
set(CONTRAFLOW_HEADERS_sd3 sd3/*.hpp)
set(CONTRAFLOW_HEADERS_flux flux/*.hpp)

include(ContraflowComponentDependencies)

# Defines contraflow::<component> and moves its headers out of the list of all.
function(_contraflow_add_component component list_of_headers)
  list(TRANSFORM CONTRAFLOW_HEADERS_${component} PREPEND "${PROJECT_SOURCE_DIR}/include/contraflow/"
       OUTPUT_VARIABLE patterns)
  file(GLOB own CONFIGURE_DEPENDS ${patterns})
  list(REMOVE_ITEM ${list_of_headers} ${own})
  set(${list_of_headers} "${${list_of_headers}}" PARENT_SCOPE)
  if(NOT component IN_LIST CONTRAFLOW_FOUND_COMPONENTS)
    return()
  endif()
  add_library(contraflow_${component} INTERFACE)
  add_library(contraflow::${component} ALIAS contraflow_${component})
  target_sources(contraflow_${component} INTERFACE
    FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${own})
  set(libraries ${CONTRAFLOW_LIBRARIES_${component}} ${CONTRAFLOW_NEEDS_${component}})
  list(TRANSFORM libraries REPLACE "^([a-z0-9]+)$" "contraflow_\\1")
  target_link_libraries(contraflow_${component} INTERFACE contraflow ${libraries})
  set_target_properties(contraflow_${component} PROPERTIES
    EXPORT_NAME ${component}
    VERIFY_INTERFACE_HEADER_SETS ON INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
endfunction()

# Defines the components asked for and takes their headers out of a list of all headers.
function(contraflow_add_components list_of_headers)
  set(wanted ${CONTRAFLOW_COMPONENTS})
  set(insist TRUE)
  if(CONTRAFLOW_COMPONENTS STREQUAL "AUTO")
    set(wanted ${CONTRAFLOW_ALL_COMPONENTS})
    set(insist FALSE)
  elseif(CONTRAFLOW_COMPONENTS STREQUAL "NONE")
    set(wanted)
  endif()
  contraflow_find_components(found missing COMPONENTS ${wanted} FETCH ${insist})
  if(missing)
    list(JOIN missing "; " sentence)
    if(insist)
      message(FATAL_ERROR "${sentence}: run scripts/setup")
    endif()
    message(STATUS "Left out, with what needs it: ${sentence}")
  endif()
  set(CONTRAFLOW_FOUND_COMPONENTS "${found}")
  foreach(component IN LISTS CONTRAFLOW_ALL_COMPONENTS)
    _contraflow_add_component(${component} ${list_of_headers})
  endforeach()
  set(${list_of_headers} "${${list_of_headers}}" PARENT_SCOPE)
  set(CONTRAFLOW_FOUND_COMPONENTS "${found}" PARENT_SCOPE)
endfunction()

# Sets <result> to whether there are all of the components named.
function(contraflow_has result)
  set(all TRUE)
  foreach(component IN LISTS ARGN)
    if(NOT TARGET contraflow::${component})
      set(all FALSE)
    endif()
  endforeach()
  set(${result} ${all} PARENT_SCOPE)
endfunction()
