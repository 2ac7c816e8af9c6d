// Torch-free doors to weights, for the layers above: make, load and save models.
#pragma once

#include <cstdint>
#include <filesystem>

#include "policy/model_config.h"
#include "policy/policy.h"

namespace espalier::policy {

WeightsPtr make_model(const ModelShape& shape, uint64_t run_seed);
/// A Hugging Face directory. Errors: PolicyError.
WeightsPtr load_model(const std::filesystem::path& directory);
void save_model(const std::filesystem::path& directory, const WeightsPtr& weights);
ModelShape shape_of(const WeightsPtr& weights);
/// SHA-256 over names, shapes and bytes of all tensors: equal weights, equal digest.
std::string digest(const WeightsPtr& weights);

}  // namespace espalier::policy
