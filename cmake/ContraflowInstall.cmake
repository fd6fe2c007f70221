include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_folder "${CMAKE_INSTALL_LIBDIR}/cmake/contraflow")
install(TARGETS contraflow EXPORT contraflowTargets
        FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
        FILE_SET device_headers DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT contraflowTargets NAMESPACE contraflow:: DESTINATION "${package_folder}")
foreach(component IN LISTS CONTRAFLOW_FOUND_COMPONENTS)
  install(TARGETS contraflow_${component} EXPORT contraflow_${component}Targets
          FILE_SET HEADERS DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
  install(EXPORT contraflow_${component}Targets NAMESPACE contraflow:: DESTINATION "${package_folder}")
endforeach()
configure_package_config_file(cmake/contraflowConfig.cmake.in contraflowConfig.cmake
                              INSTALL_DESTINATION "${package_folder}")
write_basic_package_version_file(contraflowConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/contraflowConfig.cmake"
              "${PROJECT_BINARY_DIR}/contraflowConfigVersion.cmake"
              cmake/ContraflowDependencies.cmake
              cmake/ContraflowComponentDependencies.cmake
              cmake/FindLibTorch.cmake
        DESTINATION "${package_folder}")
