// Parameters of a transformer, by their Hugging Face names. Sees torch.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "common/rng.h"
#include "policy/model_config.h"

namespace espalier::policy {

/// Name ("model.layers.0.self_attn.q_proj.weight") → tensor. Linear weights are [out, in] as in
/// Hugging Face files. Thread contract: immutable once published; tensors are shared by reference.
class Weights {
 public:
  /// Low-rank addition to a linear weight (Hu et al. 2021): W + scale · b · a.
  struct Adapter {
    at::Tensor a, b;  // [rank, in], [out, rank]
    double scale = 1;
  };

  ModelShape shape;
  std::map<std::string, at::Tensor> tensors;
  std::map<std::string, Adapter> adapters;  // by the weight's name; only while training

  const at::Tensor& at(const std::string& name) const;  // PolicyError when missing
  /// Deep copy of the tensors without gradients, of the same or another dtype/device.
  std::shared_ptr<Weights> clone(std::optional<at::ScalarType> dtype = std::nullopt,
                                 std::optional<at::Device> device = std::nullopt) const;
};

/// Fresh parameters, drawn from `key` alone (the same on every machine and thread count).
std::shared_ptr<Weights> init_weights(const ModelShape& shape, common::RngKey key);

/// A Hugging Face directory: config.json and model.safetensors (or shards with an index).
/// Saving writes a temp directory's files whole (fsync, rename). Errors: PolicyError / StoreError.
std::shared_ptr<Weights> load_weights(const std::filesystem::path& directory);
void save_weights(const std::filesystem::path& directory, const Weights& weights);

}  // namespace espalier::policy
