#include "learner/trainable.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "common/rng.h"
#include "policy/device.h"
#include "policy/safetensors.h"

namespace espalier::learner {
namespace {

constexpr const char* kAdapterFile = "adapter_model.safetensors";

at::ScalarType pass_type(const std::string& dtype, at::ScalarType masters) {
  if (dtype == "float32") return masters;
  if (dtype == "bfloat16") return at::kBFloat16;
  throw common::ConfigError("learner.dtype: got '" + dtype + "'; allowed: float32, bfloat16");
}

/// "model.layers.0.self_attn.q_proj.weight" has the target "q_proj".
bool is_target(const std::string& name, const std::vector<std::string>& targets) {
  return std::any_of(targets.begin(), targets.end(), [&](const std::string& target) {
    return name.ends_with("." + target + ".weight");
  });
}

/// PEFT's name of an adapter's half.
std::string peft_name(const std::string& weight, const char* half) {
  const std::string module = weight.substr(0, weight.size() - std::string(".weight").size());
  return "base_model.model." + module + ".lora_" + half + ".weight";
}

/// Uniform within ±1/√in, as PEFT draws it; the other half is zero, so that training starts at W.
at::Tensor fresh_a(const std::string& name, int64_t rank, int64_t in, uint64_t seed) {
  common::Rng rng(common::derive_key(seed, "lora", name));
  at::Tensor a = at::empty({rank, in}, at::TensorOptions().dtype(at::kFloat));
  const double bound = 1.0 / std::sqrt(static_cast<double>(in));
  float* data = a.mutable_data_ptr<float>();
  for (int64_t i = 0; i < a.numel(); ++i)
    data[i] = static_cast<float>(bound * (2.0 * rng.uniform() - 1.0));
  return a;
}

}  // namespace

Trainable::Trainable(const policy::Weights& start, const TrainableOptions& options)
    : lora_(options.lora) {
  const auto given = start.at("model.embed_tokens.weight").scalar_type();
  const auto type = given == at::kDouble ? at::kDouble : at::kFloat;
  pass_type_ = pass_type(options.dtype, type);
  masters_ = *start.clone(type, at::Device(policy::resolve_device(options.device)));
  if (lora_.rank > 0) {
    add_adapters(options.seed);
  } else {
    parameters_ = masters_.tensors;
  }
  for (auto& [name, parameter] : parameters_) parameter.requires_grad_(true);
}

void Trainable::add_adapters(uint64_t seed) {
  for (const auto& [name, weight] : masters_.tensors) {
    if (!is_target(name, lora_.targets)) continue;
    policy::Weights::Adapter adapter;
    adapter.scale = lora_.alpha / lora_.rank;
    adapter.a = fresh_a(name, lora_.rank, weight.size(1), seed).to(weight.options());
    adapter.b = at::zeros({weight.size(0), lora_.rank}, weight.options());
    parameters_[peft_name(name, "A")] = adapter.a;
    parameters_[peft_name(name, "B")] = adapter.b;
    masters_.adapters[name] = adapter;
  }
  if (masters_.adapters.empty())
    throw common::ConfigError("learner.lora.targets: the model has none of these projections");
}

policy::Weights Trainable::for_pass() const {
  policy::Weights weights = masters_;
  for (auto& [name, tensor] : weights.tensors) tensor = tensor.to(pass_type_);
  for (auto& [name, adapter] : weights.adapters) {
    adapter.a = adapter.a.to(pass_type_);
    adapter.b = adapter.b.to(pass_type_);
  }
  return weights;
}

std::shared_ptr<policy::Weights> Trainable::merged() const {
  const c10::AutoGradMode no_grad(false);
  auto weights = masters_.clone();
  for (const auto& [name, adapter] : masters_.adapters)
    weights->tensors[name].add_(at::matmul(adapter.b.detach(), adapter.a.detach()), adapter.scale);
  return weights;
}

std::function<void(const std::filesystem::path&)> Trainable::adapter_writer() const {
  policy::TensorMap tensors;
  for (const auto& [name, parameter] : parameters_) tensors[name] = parameter.detach().clone();
  const nlohmann::json config = {{"peft_type", "LORA"},
                                 {"task_type", "CAUSAL_LM"},
                                 {"base_model_name_or_path", nullptr},
                                 {"r", lora_.rank},
                                 {"lora_alpha", lora_.alpha},
                                 {"lora_dropout", 0.0},
                                 {"target_modules", lora_.targets},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"inference_mode", true}};
  return [tensors, text = config.dump(2) + "\n"](const std::filesystem::path& directory) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error)
      throw common::StoreError("create directory " + directory.string() + ": " + error.message());
    policy::save_safetensors(directory / kAdapterFile, tensors, {{"format", "pt"}});
    common::write_file_atomically(directory / "adapter_config.json", text);
  };
}

void Trainable::load_adapters(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kAdapterFile;
  const c10::AutoGradMode no_grad(false);
  policy::TensorMap tensors;
  try {
    tensors = policy::load_safetensors(path);
  } catch (const common::PolicyError& error) {
    throw common::StoreError(std::string("load adapters: ") + error.what());
  }
  for (auto& [name, parameter] : parameters_) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.sizes() != parameter.sizes())
      throw common::StoreError("load adapters " + path.string() + ": tensor " + name +
                               " is missing or of another shape than learner.lora makes it");
    parameter.copy_(found->second);
  }
}

}  // namespace espalier::learner
