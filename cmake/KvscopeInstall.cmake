# The target kvscope::kvscope (every module that is built), the target `programs`, and the package that
# `find_package(kvscope)` finds after `cmake --install`.
get_property(modules GLOBAL PROPERTY KVSCOPE_MODULES)
add_library(kvscope_all INTERFACE)
add_library(kvscope::kvscope ALIAS kvscope_all)
set_target_properties(kvscope_all PROPERTIES EXPORT_NAME kvscope)
foreach(module IN LISTS modules)
  target_link_libraries(kvscope_all INTERFACE kvscope::${module})
endforeach()
install(TARGETS kvscope_all EXPORT kvscope-targets)

add_custom_target(programs)
foreach(folder probe/kernels probe/attach viewer/cli viewer/gui)
  if(EXISTS ${PROJECT_BINARY_DIR}/${folder}/CMakeFiles)
    get_property(targets DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target IN LISTS targets)
      get_target_property(type ${target} TYPE)
      if(type MATCHES "^(EXECUTABLE|MODULE_LIBRARY|SHARED_LIBRARY)$")
        add_dependencies(programs ${target})
      endif()
    endforeach()
  endif()
endforeach()

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kvscope)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/kvscope-config.cmake.in
  ${PROJECT_BINARY_DIR}/kvscope-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/kvscope-config-version.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT kvscope-targets NAMESPACE kvscope:: DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/kvscope-config.cmake ${PROJECT_BINARY_DIR}/kvscope-config-version.cmake
              ${CMAKE_CURRENT_LIST_DIR}/FindTorchCpu.cmake DESTINATION ${package_dir})
