# Precompiled headers: most of a compilation here is reading headers (ATen/TensorOperators.h alone: 12 s, 2 s
# precompiled). Each set below is read once; targets whose flags agree share it. GCC only: clang-tidy cannot read
# GCC's files, and the fuzzing build is small.
include(CMakeDependentOption)
cmake_dependent_option(KVSCOPE_PCH "Precompile headers of the standard library, LibTorch and GoogleTest" ON
                       "CMAKE_CXX_COMPILER_ID STREQUAL GNU" OFF)

set(standard_headers <algorithm> <array> <atomic> <chrono> <cmath> <cstdint> <cstring> <filesystem> <fstream> <functional>
                     <limits> <map> <memory> <mutex> <numeric> <optional> <set> <span> <string> <string_view> <utility> <vector>
                     <fmt/format.h>)
set(torch_headers <ATen/Parallel.h> <ATen/TensorOperators.h> <ATen/core/Tensor.h> <ATen/core/grad_mode.h> <ATen/ops/arange.h>
                  <ATen/ops/cat.h> <ATen/ops/empty.h> <ATen/ops/from_blob.h> <ATen/ops/full.h> <ATen/ops/matmul.h>
                  <ATen/ops/ones.h> <ATen/ops/softmax.h> <ATen/ops/stack.h> <ATen/ops/tensor.h> <ATen/ops/zeros.h>)
set(test_headers <gtest/gtest.h> <gmock/gmock.h>)

# kvscope_pch_set(NAME HEADERS ... [LIBRARIES ...] [LIBRARY]): the headers as libraries (position-independent,
# hidden) or as programs include them.
function(kvscope_pch_set name)
  cmake_parse_arguments(ARG "LIBRARY" "" "HEADERS;LIBRARIES" ${ARGN})
  set(unit ${PROJECT_BINARY_DIR}/pch/${name}.cpp)
  file(CONFIGURE OUTPUT ${unit} CONTENT "// Holds the precompiled headers of this set.\n")
  add_library(kvscope_pch_${name} OBJECT ${unit})
  target_compile_features(kvscope_pch_${name} PRIVATE cxx_std_20)
  target_link_libraries(kvscope_pch_${name} PRIVATE ${ARG_LIBRARIES} fmt::fmt kvscope_warnings)
  target_precompile_headers(kvscope_pch_${name} PRIVATE ${ARG_HEADERS})
  if(ARG_LIBRARY)
    set_target_properties(kvscope_pch_${name} PROPERTIES CXX_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
  endif()
endfunction()

if(KVSCOPE_PCH)
  add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fpch-preprocess>)  # for ccache
  # GCC 12 suspects std::string of overlong copies (its bug 105651), and forgets that a precompiled header is the system's.
  target_compile_options(kvscope_warnings INTERFACE
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-array-bounds> $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-stringop-overflow>)
  kvscope_pch_set(library LIBRARY HEADERS ${standard_headers})
  kvscope_pch_set(program HEADERS ${standard_headers})
  kvscope_pch_set(test HEADERS ${standard_headers} ${test_headers} LIBRARIES GTest::gtest GTest::gmock)
  if(KVSCOPE_HAVE_TORCH)
    kvscope_pch_set(torch_library LIBRARY HEADERS ${standard_headers} ${torch_headers} LIBRARIES torch::cpu)
    kvscope_pch_set(torch_test HEADERS ${standard_headers} ${torch_headers} ${test_headers}
                    LIBRARIES torch::cpu GTest::gtest GTest::gmock)
    kvscope_pch_set(cli HEADERS ${standard_headers} <CLI/CLI.hpp> <nlohmann/json.hpp>
                    LIBRARIES torch::cpu CLI11::CLI11 nlohmann_json::nlohmann_json)
  endif()
endif()

# Whether a target of the list is LibTorch or links it, directly or through others.
function(kvscope_links_torch result)
  set(${result} "" PARENT_SCOPE)
  foreach(library IN LISTS ARGN)
    if(library STREQUAL torch::cpu)
      set(${result} torch_ PARENT_SCOPE)
      return()
    elseif(library MATCHES "^kvscope::" AND TARGET ${library})
      get_target_property(links ${library} INTERFACE_LINK_LIBRARIES)
      kvscope_links_torch(below ${links})
      if(below)
        set(${result} torch_ PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

# kvscope_precompile(TARGET library|program|test|cli LIBRARIES...): gives a target the headers that fit what it links.
function(kvscope_precompile target kind)
  if(NOT KVSCOPE_PCH)
    return()
  endif()
  kvscope_links_torch(torch_ ${ARGN})
  target_precompile_headers(${target} REUSE_FROM kvscope_pch_${torch_}${kind})
endfunction()
