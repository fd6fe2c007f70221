# For vcpkg as an overlay port: vcpkg install contraflow --overlay-ports=cmake/vcpkg
#
# Written by vcpkg's rules, and not run. The library is that of the checkout that the port stands in.
# LibTorch is not vcpkg's, but found as in any other build of the library: in LibTorch_ROOT of the
# environment, a Python's torch or a distribution. A feature is a component of the package.

set(VCPKG_BUILD_TYPE release) # only headers

get_filename_component(SOURCE_PATH "${CURRENT_PORT_DIR}/../../.." ABSOLUTE)

set(components NONE)
foreach(component IN ITEMS images text http sd3 flux)
    if(component IN_LIST FEATURES)
        list(APPEND components ${component})
        list(REMOVE_ITEM components NONE)
    endif()
endforeach()

vcpkg_cmake_configure(
    SOURCE_PATH "${SOURCE_PATH}"
    OPTIONS
        -DCONTRAFLOW_BUILD_TESTS=OFF
        -DCONTRAFLOW_BUILD_EXAMPLES=OFF
        -DCONTRAFLOW_BUILD_BENCHMARKS=OFF
        "-DCONTRAFLOW_COMPONENTS=${components}"
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH lib/cmake/contraflow)

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/lib")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
