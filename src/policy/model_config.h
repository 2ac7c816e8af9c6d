// Shape of a dense decoder-only transformer (the Qwen3 family's), as config.json describes it. No
// torch in here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace espalier::policy {

struct ModelShape {
  int vocab_size = 0;
  int hidden_size = 64;
  int num_hidden_layers = 3;
  int num_attention_heads = 4;
  int num_key_value_heads = 4;
  int head_dim = 16;
  int intermediate_size = 192;
  int max_position_embeddings = 256;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-6;
  bool qk_norm = true;
  bool tie_word_embeddings = true;

  size_t parameters() const;
  /// Every tensor of the model by its Hugging Face name. Linear weights are [out, in]; no
  /// lm_head.weight when tied.
  std::map<std::string, std::vector<int64_t>> tensor_shapes() const;
  bool operator==(const ModelShape&) const = default;
};

/// config.json of transformers' Qwen3ForCausalLM, or of LlamaForCausalLM, which is the same without
/// QK-norm (no biases, no RoPE scaling, no sliding window). Errors: PolicyError with path, key,
/// value seen, values allowed.
ModelShape load_shape(const std::filesystem::path& config_json);
std::string to_json(const ModelShape& shape);

}  // namespace espalier::policy
