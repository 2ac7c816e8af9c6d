#include "policy/device.h"

#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>
#include <torch/version.h>

#include <filesystem>

#include "common/error.h"

namespace espalier::policy {
namespace {

struct CudaStatus {
  bool usable = false;
  std::string text;  // the device's name, or why there is none
};

/// The library that lies beside the libtorch_cpu.so in use; else whatever the loader finds.
void* open_cuda_library() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::get_num_threads), &info) != 0 && info.dli_fname) {
    const auto beside = std::filesystem::path(info.dli_fname).parent_path() / "libtorch_cuda.so";
    if (std::filesystem::exists(beside)) return dlopen(beside.c_str(), RTLD_NOW | RTLD_GLOBAL);
  }
  return dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
}

bool has_driver() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (driver) dlclose(driver);
  return driver != nullptr;
}

/// By the driver's C functions, so that no CUDA header is needed.
std::string first_device_name() {
  void* driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) return "CUDA device 0";
  auto init = reinterpret_cast<int (*)(unsigned)>(dlsym(driver, "cuInit"));
  auto get = reinterpret_cast<int (*)(int*, int)>(dlsym(driver, "cuDeviceGet"));
  auto name = reinterpret_cast<int (*)(char*, int, int)>(dlsym(driver, "cuDeviceGetName"));
  char text[128] = "CUDA device 0";
  int device = 0;
  if (init && get && name && init(0) == 0 && get(&device, 0) == 0) name(text, sizeof text, device);
  dlclose(driver);
  return text;
}

CudaStatus probe_cuda() {
  // The library registers its hooks when it is loaded, so this comes before the first question to
  // them.
  if (!open_cuda_library()) {
    const char* error = dlerror();
    const std::string reason = error ? error : "unknown";
    // Without a driver it is no fault that the CPU build of LibTorch lacks CUDA's libraries.
    if (!has_driver()) return {false, "no CUDA driver on this machine"};
    return {false, "CUDA libraries are missing; scripts/setup.sh --gpu fetches them: " + reason};
  }
  try {
    const auto& hooks = at::detail::getCUDAHooks();
    const int devices = hooks.hasCUDA() ? hooks.getNumGPUs() : 0;
    if (devices == 0) return {false, "no CUDA device (no driver, or none is visible)"};
    return {true, first_device_name()};
  } catch (const c10::Error& error) {
    return {false, error.what_without_backtrace()};
  }
}

const CudaStatus& cuda_status() {
  static const CudaStatus status = probe_cuda();
  return status;
}

}  // namespace

bool load_cuda() { return cuda_status().usable; }

std::string resolve_device(const std::string& requested) {
  if (requested == "cpu") return "cpu";
  if (requested == "auto") return load_cuda() ? "cuda" : "cpu";
  if (requested != "cuda") {
    throw common::PolicyError("choose device: \"" + requested + "\"; allowed: auto, cpu, cuda");
  }
  if (!load_cuda()) throw common::PolicyError("choose device: cuda: " + cuda_status().text);
  return "cuda";
}

std::string torch_version() { return TORCH_VERSION; }

std::string device_summary() {
  return load_cuda() ? cuda_status().text : "cpu (" + cuda_status().text + ")";
}

void set_torch_threads(int threads) {
  if (threads < 1) {
    throw common::PolicyError("set torch threads: " + std::to_string(threads) +
                              "; allowed: 1 or more");
  }
  at::set_num_threads(threads);
}

void use_torch_threads() { at::init_num_threads(); }

}  // namespace espalier::policy
