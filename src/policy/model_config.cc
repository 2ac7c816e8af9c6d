#include "policy/model_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"

namespace espalier::policy {
namespace fs = std::filesystem;
using common::PolicyError;
using nlohmann::json;
namespace {

/// Reads keys of one config.json and names the file in every complaint.
class Reader {
 public:
  Reader(fs::path path, json object) : path_(std::move(path)), object_(std::move(object)) {}

  const json* find(const char* key) const {
    auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  int integer(const char* key, int fallback = -1) const {
    const json* value = find(key);
    if (!value && fallback > 0) return fallback;
    if (!value) fail(key, "nothing", "an integer");
    constexpr int64_t kMax = 16'777'216;
    if (!value->is_number_integer() || *value < 1 || *value > kMax) {
      fail(key, value->dump(), "an integer from 1 to 16777216");
    }
    return value->get<int>();
  }

  double positive(const char* key, const json* value, double fallback) const {
    if (!value || value->is_null()) return fallback;
    if (!value->is_number() || !(value->get<double>() > 0)) {
      fail(key, value->dump(), "a number above 0");
    }
    return value->get<double>();
  }

  bool boolean(const char* key, bool fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_boolean()) fail(key, value->dump(), "true or false");
    return value->get<bool>();
  }

  std::string text(const char* key, const std::string& fallback) const {
    const json* value = find(key);
    if (!value) return fallback;
    if (!value->is_string()) fail(key, value->dump(), "a string");
    return value->get<std::string>();
  }

  [[noreturn]] void fail(const std::string& key, const std::string& seen,
                         const std::string& allowed) const {
    throw PolicyError("load model configuration " + path_.string() + ": " + key + " is " + seen +
                      "; allowed: " + allowed);
  }

 private:
  fs::path path_;
  json object_;
};

Reader read_config(const fs::path& path) {
  std::string text;
  try {
    text = common::read_file(path);
  } catch (const common::StoreError& error) {
    throw PolicyError(std::string("load model configuration: ") + error.what());
  }
  json object = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    throw PolicyError("load model configuration " + path.string() + ": not a JSON object");
  }
  return Reader(path, std::move(object));
}

double read_rope_theta(const Reader& reader) {
  // transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling.
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* rope = reader.find(key);
    if (!rope) continue;
    if (!rope->is_object()) reader.fail(key, rope->dump(), "an object");
    const json* type = rope->contains("rope_type") ? &rope->at("rope_type") : nullptr;
    if (!type && rope->contains("type")) type = &rope->at("type");
    if (type && *type != "default")
      reader.fail(std::string(key) + ".rope_type", type->dump(), "\"default\"");
    if (rope->contains("rope_theta")) {
      return reader.positive("rope_parameters.rope_theta", &rope->at("rope_theta"), 10000.0);
    }
  }
  return reader.positive("rope_theta", reader.find("rope_theta"), 10000.0);
}

void refuse_unsupported(const Reader& reader) {
  for (const char* key : {"attention_bias", "mlp_bias", "use_sliding_window"}) {
    if (reader.boolean(key, false)) reader.fail(key, "true", "false");
  }
  const std::string activation = reader.text("hidden_act", "silu");
  if (activation != "silu") reader.fail("hidden_act", '"' + activation + '"', "\"silu\"");
}

void check_consistent(const Reader& reader, const ModelShape& shape) {
  if (shape.num_attention_heads % shape.num_key_value_heads != 0) {
    reader.fail("num_key_value_heads", std::to_string(shape.num_key_value_heads),
                "a divisor of num_attention_heads = " + std::to_string(shape.num_attention_heads));
  }
  if (shape.head_dim % 2 != 0) {
    reader.fail("head_dim", std::to_string(shape.head_dim), "an even number (RoPE turns pairs)");
  }
}

}  // namespace

std::map<std::string, std::vector<int64_t>> ModelShape::tensor_shapes() const {
  const int64_t hidden = hidden_size, inner = intermediate_size;
  const int64_t q_rows = int64_t{num_attention_heads} * head_dim;
  const int64_t kv_rows = int64_t{num_key_value_heads} * head_dim;
  std::map<std::string, std::vector<int64_t>> shapes;
  shapes["model.embed_tokens.weight"] = {vocab_size, hidden};
  shapes["model.norm.weight"] = {hidden};
  if (!tie_word_embeddings) shapes["lm_head.weight"] = {vocab_size, hidden};
  for (int layer = 0; layer < num_hidden_layers; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".";
    shapes[prefix + "input_layernorm.weight"] = {hidden};
    shapes[prefix + "post_attention_layernorm.weight"] = {hidden};
    shapes[prefix + "self_attn.q_proj.weight"] = {q_rows, hidden};
    shapes[prefix + "self_attn.k_proj.weight"] = {kv_rows, hidden};
    shapes[prefix + "self_attn.v_proj.weight"] = {kv_rows, hidden};
    shapes[prefix + "self_attn.o_proj.weight"] = {hidden, q_rows};
    if (qk_norm) {
      shapes[prefix + "self_attn.q_norm.weight"] = {head_dim};
      shapes[prefix + "self_attn.k_norm.weight"] = {head_dim};
    }
    shapes[prefix + "mlp.gate_proj.weight"] = {inner, hidden};
    shapes[prefix + "mlp.up_proj.weight"] = {inner, hidden};
    shapes[prefix + "mlp.down_proj.weight"] = {hidden, inner};
  }
  return shapes;
}

size_t ModelShape::parameters() const {
  size_t total = 0;
  for (const auto& [name, sizes] : tensor_shapes()) {
    size_t count = 1;
    for (int64_t size : sizes) count *= static_cast<size_t>(size);
    total += count;
  }
  return total;
}

ModelShape load_shape(const fs::path& config_json) {
  const Reader reader = read_config(config_json);
  const std::string type = reader.text("model_type", "");
  if (type != "qwen3" && type != "llama") {
    reader.fail("model_type", '"' + type + '"', "\"qwen3\", \"llama\"");
  }
  refuse_unsupported(reader);
  ModelShape shape;
  shape.qk_norm = type == "qwen3";
  shape.vocab_size = reader.integer("vocab_size");
  shape.hidden_size = reader.integer("hidden_size");
  shape.num_hidden_layers = reader.integer("num_hidden_layers");
  shape.num_attention_heads = reader.integer("num_attention_heads");
  shape.num_key_value_heads = reader.integer("num_key_value_heads", shape.num_attention_heads);
  // What transformers takes when the key is missing.
  shape.head_dim = reader.integer(
      "head_dim", shape.qk_norm ? 128 : std::max(1, shape.hidden_size / shape.num_attention_heads));
  shape.intermediate_size = reader.integer("intermediate_size");
  shape.max_position_embeddings = reader.integer("max_position_embeddings");
  shape.rope_theta = read_rope_theta(reader);
  shape.rms_norm_eps = reader.positive("rms_norm_eps", reader.find("rms_norm_eps"), 1e-6);
  shape.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
  check_consistent(reader, shape);
  return shape;
}

std::string to_json(const ModelShape& shape) {
  nlohmann::ordered_json config;
  config["architectures"] = {shape.qk_norm ? "Qwen3ForCausalLM" : "LlamaForCausalLM"};
  config["model_type"] = shape.qk_norm ? "qwen3" : "llama";
  config["vocab_size"] = shape.vocab_size;
  config["hidden_size"] = shape.hidden_size;
  config["num_hidden_layers"] = shape.num_hidden_layers;
  config["num_attention_heads"] = shape.num_attention_heads;
  config["num_key_value_heads"] = shape.num_key_value_heads;
  config["head_dim"] = shape.head_dim;
  config["intermediate_size"] = shape.intermediate_size;
  config["max_position_embeddings"] = shape.max_position_embeddings;
  config["rope_theta"] = shape.rope_theta;
  config["rope_scaling"] = nullptr;
  config["rms_norm_eps"] = shape.rms_norm_eps;
  config["hidden_act"] = "silu";
  config["attention_bias"] = false;
  config["attention_dropout"] = 0.0;
  config["use_cache"] = true;
  config["tie_word_embeddings"] = shape.tie_word_embeddings;
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  config["torch_dtype"] = "float32";
  return config.dump(2) + "\n";
}

}  // namespace espalier::policy
