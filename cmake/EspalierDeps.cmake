# Every library but LibTorch comes from the distribution's packages (scripts/setup.sh installs them).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Protobuf REQUIRED)
find_package(TBB REQUIRED)
find_package(Eigen3 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(HDF5 REQUIRED COMPONENTS C)
pkg_check_modules(SECCOMP REQUIRED IMPORTED_TARGET libseccomp)
pkg_check_modules(ARCHIVE REQUIRED IMPORTED_TARGET libarchive)
pkg_check_modules(ZSTD REQUIRED IMPORTED_TARGET libzstd)

add_library(espalier_hdf5 INTERFACE)
target_include_directories(espalier_hdf5 SYSTEM INTERFACE ${HDF5_INCLUDE_DIRS})
target_link_libraries(espalier_hdf5 INTERFACE ${HDF5_LIBRARIES})

# toml11 is headers only, and older packages of it have no CMake file.
find_path(TOML11_INCLUDE_DIR toml.hpp REQUIRED)
add_library(espalier_toml INTERFACE)
target_include_directories(espalier_toml SYSTEM INTERFACE ${TOML11_INCLUDE_DIR})
