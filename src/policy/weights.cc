#include "policy/weights.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"
#include "policy/model_io.h"
#include "policy/safetensors.h"

namespace espalier::policy {
namespace fs = std::filesystem;
using common::PolicyError;
using nlohmann::json;
namespace {

// Embeddings this wide keep a token's identity legible beside what the layers add to the residual
// stream …
constexpr double kEmbeddingStd = 0.5;
// … and logits this wide (standard deviation) start the model near the uniform distribution.
constexpr double kInitialLogitStd = 0.5;

at::Tensor constant_tensor(const std::vector<int64_t>& sizes, double value) {
  at::Tensor tensor = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
  tensor.fill_(value);
  return tensor;
}

at::Tensor normal_tensor(const std::vector<int64_t>& sizes, double std, common::RngKey key) {
  at::Tensor tensor = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
  common::Rng rng(key);
  float* data = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) data[i] = static_cast<float>(std * rng.normal());
  return tensor;
}

/// Standard deviation of a fresh matrix: 1/sqrt(fan-in), so that unit inputs give unit outputs; the
/// two projections that write to the residual stream are scaled by 1/sqrt(2 L) (Radford et al.
/// 2019, GPT-2), so that its variance does not grow with depth.
double initial_std(const std::string& name, const ModelShape& shape, int64_t fan_in) {
  if (name == "model.embed_tokens.weight") return kEmbeddingStd;
  double std = 1.0 / std::sqrt(static_cast<double>(fan_in));
  if (name == "lm_head.weight") return kInitialLogitStd * std;
  if (name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight")) {
    std /= std::sqrt(2.0 * shape.num_hidden_layers);
  }
  return std;
}

/// The last norm's weight: with tied embeddings it is what sets the scale of the first logits.
double initial_final_norm(const ModelShape& shape) {
  if (!shape.tie_word_embeddings) return 1.0;
  return kInitialLogitStd / (kEmbeddingStd * std::sqrt(static_cast<double>(shape.hidden_size)));
}

std::string sizes_text(at::IntArrayRef sizes) {
  std::string text = "[";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + "]";
}

/// Files that hold the tensors: one, or the shards an index names.
std::set<std::string> shard_names(const fs::path& directory) {
  const fs::path index = directory / "model.safetensors.index.json";
  if (fs::exists(directory / "model.safetensors") || !fs::exists(index))
    return {"model.safetensors"};
  const json parsed = json::parse(common::read_file(index), nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object() || !parsed.contains("weight_map") || !parsed["weight_map"].is_object()) {
    throw PolicyError("load weights " + index.string() + ": no weight_map object");
  }
  std::set<std::string> names;
  for (const auto& [tensor, file] : parsed["weight_map"].items()) {
    if (!file.is_string() ||
        fs::path(file.get<std::string>()).filename() != file.get<std::string>()) {
      throw PolicyError("load weights " + index.string() + ": weight_map[" + tensor + "] is " +
                        file.dump() + "; allowed: a file name");
    }
    names.insert(file.get<std::string>());
  }
  return names;
}

/// Entries that other writers add and that carry nothing.
bool is_redundant(const std::string& name, const ModelShape& shape) {
  return name.ends_with("rotary_emb.inv_freq") ||
         (shape.tie_word_embeddings && name == "lm_head.weight");
}

void check_tensors(const fs::path& directory, const Weights& weights) {
  const auto expected = weights.shape.tensor_shapes();
  auto fail = [&](const std::string& name, const std::string& what) {
    throw PolicyError("load weights " + directory.string() + ": tensor " + name + what);
  };
  for (const auto& [name, sizes] : expected) {
    auto it = weights.tensors.find(name);
    if (it == weights.tensors.end()) fail(name, " is missing");
    if (it->second.sizes() != at::IntArrayRef(sizes)) {
      fail(name, " has shape " + sizes_text(it->second.sizes()) + "; config.json wants " +
                     sizes_text(sizes));
    }
    if (!it->second.is_floating_point()) {
      fail(name, std::string(" has dtype ") + at::toString(it->second.scalar_type()) +
                     "; allowed: a floating-point type");
    }
  }
  for (const auto& [name, tensor] : weights.tensors) {
    if (!expected.contains(name)) fail(name, " is none of this architecture's");
  }
}

}  // namespace

const at::Tensor& Weights::at(const std::string& name) const {
  auto it = tensors.find(name);
  if (it == tensors.end()) throw PolicyError("weights: there is no tensor " + name);
  return it->second;
}

std::shared_ptr<Weights> Weights::clone(std::optional<at::ScalarType> dtype,
                                        std::optional<at::Device> device) const {
  auto copy = std::make_shared<Weights>();
  copy->shape = shape;
  for (const auto& [name, tensor] : tensors) {
    const auto options = tensor.options()
                             .dtype(dtype.value_or(tensor.scalar_type()))
                             .device(device.value_or(tensor.device()))
                             .requires_grad(false);
    copy->tensors.emplace(name, tensor.detach().to(options, /*non_blocking=*/false, /*copy=*/true));
  }
  return copy;
}

std::shared_ptr<Weights> init_weights(const ModelShape& shape, common::RngKey key) {
  auto weights = std::make_shared<Weights>();
  weights->shape = shape;
  for (const auto& [name, sizes] : shape.tensor_shapes()) {
    if (name == "model.norm.weight") {
      weights->tensors[name] = constant_tensor(sizes, initial_final_norm(shape));
    } else if (sizes.size() == 1) {
      weights->tensors[name] = constant_tensor(sizes, 1.0);
    } else {
      weights->tensors[name] = normal_tensor(sizes, initial_std(name, shape, sizes[1]),
                                             common::derive_key(key.value, "init", name));
    }
  }
  return weights;
}

std::shared_ptr<Weights> load_weights(const fs::path& directory) {
  auto weights = std::make_shared<Weights>();
  weights->shape = load_shape(directory / "config.json");
  for (const std::string& shard : shard_names(directory)) {
    for (auto& [name, tensor] : load_safetensors(directory / shard)) {
      if (is_redundant(name, weights->shape)) continue;
      if (!weights->tensors.emplace(name, std::move(tensor)).second) {
        throw PolicyError("load weights " + directory.string() + ": tensor " + name +
                          " occurs in two shards");
      }
    }
  }
  check_tensors(directory, *weights);
  return weights;
}

void save_weights(const fs::path& directory, const Weights& weights) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error)
    throw common::StoreError("create directory " + directory.string() + ": " + error.message());
  save_safetensors(directory / "model.safetensors", weights.tensors, {{"format", "pt"}});
  common::write_file_atomically(directory / "config.json", to_json(weights.shape));
}

WeightsPtr make_model(const ModelShape& shape, uint64_t run_seed) {
  return init_weights(shape, common::derive_key(run_seed, "model", "weights"));
}

WeightsPtr load_model(const fs::path& directory) { return load_weights(directory); }

void save_model(const fs::path& directory, const WeightsPtr& weights) {
  save_weights(directory, *weights);
}

ModelShape shape_of(const WeightsPtr& weights) { return weights->shape; }

std::string digest(const WeightsPtr& weights) {
  common::Sha256 hash;
  for (const auto& [name, tensor] : weights->tensors) {
    const at::Tensor plain = tensor.detach().cpu().contiguous();
    // The terminating zero keeps neighbouring fields apart.
    const std::string head =
        name + '\0' + at::toString(plain.scalar_type()) + sizes_text(plain.sizes());
    hash.update(head + '\0');
    hash.update({static_cast<const char*>(plain.data_ptr()), plain.nbytes()});
  }
  const common::Digest result = hash.finish();
  return common::to_hex(result.data(), result.size());
}

}  // namespace espalier::policy
