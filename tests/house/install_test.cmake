# Installs the build into a folder, then configures, builds and runs a separate project that finds the package there.
file(REMOVE_RECURSE ${WORK_DIR})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    list(JOIN ARGN " " command)
    message(FATAL_ERROR "${command}\nended with ${status}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# README's C++ program: the text between its fences.
file(READ ${README} text)
string(FIND "${text}" "```cpp\n" first)
math(EXPR first "${first} + 7")
string(SUBSTRING "${text}" ${first} -1 text)
string(FIND "${text}" "```" last)
string(SUBSTRING "${text}" 0 ${last} text)
file(WRITE ${WORK_DIR}/readme.cpp "${text}")

run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${WORK_DIR}/prefix)
run(${CMAKE_COMMAND} -G Ninja -S ${CONSUMER_DIR} -B ${WORK_DIR}/build -DCMAKE_PREFIX_PATH=${WORK_DIR}/prefix
    -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER} -DCONSUMER_TORCH=${HAVE_TORCH} -DCONSUMER_README=${WORK_DIR}/readme.cpp)
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
run(${WORK_DIR}/build/consumer)
if(NOT output MATCHES "20 of 100 slots")
  message(FATAL_ERROR "the consumer printed: ${output}")
endif()
