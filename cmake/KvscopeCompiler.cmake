# Warnings, sanitizers, linker and compiler cache; nothing of this reaches users of the package.
add_library(kvscope_warnings INTERFACE)
target_compile_options(kvscope_warnings INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Wpedantic -Wno-sign-conversion>
  # GCC 12 warns about std::string operator+ (its bug 105329).
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CXX_COMPILER_ID:GNU>>:-Wno-restrict>)
if(KVSCOPE_WERROR)
  target_compile_options(kvscope_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(KVSCOPE_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${KVSCOPE_SANITIZE}> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  # GCC 12 sees uninitialised members in the library's own <regex> when it instruments it.
  add_compile_options($<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-maybe-uninitialized>)
  add_link_options(-fsanitize=${KVSCOPE_SANITIZE})
endif()
find_program(KVSCOPE_CCACHE ccache)
if(KVSCOPE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${KVSCOPE_CCACHE})
  # Without these two it does not cache what includes precompiled headers.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${KVSCOPE_CCACHE})
endif()
find_program(KVSCOPE_MOLD mold)
if(KVSCOPE_MOLD)
  add_link_options(-fuse-ld=mold)
  execute_process(COMMAND ${KVSCOPE_MOLD} --version OUTPUT_VARIABLE mold_version ERROR_QUIET)
  if(mold_version MATCHES "mold [01]\\.")
    # Debian 12's may have RELRO begin with a thread-local byte in a page that is not mapped: the loader then refuses the program.
    add_link_options(LINKER:-z,norelro)
  endif()
endif()
