// Where tensors live: CPU always, CUDA when its libraries and a driver are found at run time.
#pragma once

#include <string>

namespace espalier::policy {

/// Loads libtorch_cuda.so when it lies beside libtorch_cpu.so, once, before ATen's CUDA hooks are
/// first asked. True when a CUDA device can be used.
bool load_cuda();

/// "auto" → "cuda" or "cpu". Errors: PolicyError when cuda is asked for and cannot be had, with the
/// reason.
std::string resolve_device(const std::string& requested);

/// LibTorch's version and the CUDA device's name or why there is none, for reports.
std::string torch_version();
std::string device_summary();

/// Number of threads of torch's intra-op pool; deterministic sums need a fixed number.
void set_torch_threads(int threads);
/// Gives the calling thread that number: OpenMP keeps it per thread.
void use_torch_threads();

}  // namespace espalier::policy
