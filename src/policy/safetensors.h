// The safetensors format: 8 bytes of little-endian header length, a JSON header, raw tensors. Sees
// torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>

namespace espalier::policy {

using TensorMap = std::map<std::string, at::Tensor>;

/// All tensors of a file, on the CPU. The header is checked before any tensor is made: known
/// dtypes, offsets inside the file that match the shapes and neither overlap nor leave holes.
/// Errors: PolicyError with path and what is wrong.
TensorMap load_safetensors(const std::filesystem::path& path);

/// Writes the file whole (temp, fsync, rename), tensors in order of their names. Errors:
/// StoreError; PolicyError for a dtype the format has no name for.
void save_safetensors(const std::filesystem::path& path, const TensorMap& tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace espalier::policy
