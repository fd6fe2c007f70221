# CUDA sources are built where nvcc is found.

include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90)
  endif()
  enable_language(CUDA)
  set(CONTRAFLOW_CUDA TRUE)
  message(STATUS "CUDA ${CMAKE_CUDA_COMPILER_VERSION}: CUDA sources are built")
else()
  set(CONTRAFLOW_CUDA FALSE)
  message(STATUS "No nvcc: CUDA sources are left out")
endif()

# A program of one .cu file. It sees our headers but not LibTorch, which kernels do without.
function(contraflow_cuda_program name source)
  add_executable(${name} "${source}")
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}/include")
  target_link_libraries(${name} PRIVATE Random123::Random123)
  target_compile_definitions(${name} PRIVATE CONTRAFLOW_TEST_DATA="${PROJECT_SOURCE_DIR}/tests/data")
  set_target_properties(${name} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
endfunction()
