# LibTorch as one imported target for CPU and GPU: only torch_cpu and c10 are linked; the CUDA libraries are
# loaded at start-up where they are found (policy/device.cc). The wheel's own package file is not used: it
# insists on a CUDA toolkit.
#
# Torch_ROOT (cache or environment) names an unpacked LibTorch, or a Python's torch folder;
# default: what scripts/setup.sh laid into .deps/.
if(NOT Torch_ROOT AND DEFINED ENV{Torch_ROOT})
  set(Torch_ROOT $ENV{Torch_ROOT})
endif()
if(NOT Torch_ROOT)
  set(Torch_ROOT ${CMAKE_SOURCE_DIR}/.deps/libtorch/torch)
endif()
if(NOT EXISTS ${Torch_ROOT}/lib/libtorch_cpu.so)
  message(FATAL_ERROR "LibTorch not found: ${Torch_ROOT}/lib/libtorch_cpu.so does not exist. "
                      "Run scripts/setup.sh, or set Torch_ROOT to an unpacked LibTorch.")
endif()

option(ESPALIER_CUDA "Insist on a LibTorch that can use a GPU; the program itself is the same" OFF)
if(ESPALIER_CUDA AND Torch_ROOT MATCHES "\\.deps/" AND NOT EXISTS ${Torch_ROOT}/../nvidia/cudnn)
  message(FATAL_ERROR "${Torch_ROOT} has no CUDA libraries beside it. Run scripts/setup.sh --gpu.")
endif()

add_library(espalier_torch INTERFACE)
add_library(espalier::torch ALIAS espalier_torch)
target_include_directories(espalier_torch SYSTEM INTERFACE
  ${Torch_ROOT}/include ${Torch_ROOT}/include/torch/csrc/api/include)
# libtorch_cpu of a CUDA wheel wants libcudart and libcupti at load time: they lie beside it.
file(GLOB torch_nvidia_libs ${Torch_ROOT}/../nvidia/*/lib)
target_link_options(espalier_torch INTERFACE -Wl,--allow-shlib-undefined)
target_link_libraries(espalier_torch INTERFACE
  -Wl,--no-as-needed ${Torch_ROOT}/lib/libtorch_cpu.so ${Torch_ROOT}/lib/libc10.so -Wl,--as-needed)
set(ESPALIER_RPATH ${Torch_ROOT}/lib ${torch_nvidia_libs})
set(CMAKE_BUILD_RPATH ${ESPALIER_RPATH})
