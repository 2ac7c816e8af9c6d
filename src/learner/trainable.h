// The parameters a learner trains: fp32 masters of all weights, or LoRA adapters beside frozen
// ones. Sees torch.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/config.h"
#include "policy/weights.h"

namespace espalier::learner {

struct TrainableOptions {
  std::string device = "auto";
  std::string dtype = "float32";  // of passes; a float64 model stays float64
  common::LoraConfig lora;
  uint64_t seed = 1;  // of fresh adapters
};

/// Thread contract: one owner.
class Trainable {
 public:
  /// Copies `start`. Errors: ConfigError for an unknown dtype or target.
  Trainable(const policy::Weights& start, const TrainableOptions& options);

  /// What the optimizer updates, by name: float32 (float64) leaves that require gradients.
  const std::map<std::string, at::Tensor>& parameters() const { return parameters_; }

  /// Weights of one pass, in the passes' dtype; gradients flow back to parameters(), where they are
  /// summed in the masters' type.
  policy::Weights for_pass() const;

  /// A copy of the weights as they are now, adapters merged into them, in the masters' type.
  std::shared_ptr<policy::Weights> merged() const;

  bool has_adapters() const { return !masters_.adapters.empty(); }
  /// A copy of the adapters, that any thread can write to a directory later as PEFT reads them:
  /// adapter_config.json and adapter_model.safetensors, in the masters' type. Errors: StoreError.
  std::function<void(const std::filesystem::path& directory)> adapter_writer() const;
  void load_adapters(const std::filesystem::path& directory);

 private:
  void add_adapters(uint64_t seed);

  at::ScalarType pass_type_;
  common::LoraConfig lora_;
  policy::Weights masters_;
  std::map<std::string, at::Tensor> parameters_;
};

}  // namespace espalier::learner
