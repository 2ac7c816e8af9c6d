#include "policy/weights.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "policy/model_io.h"
#include "policy/models.h"
#include "policy/safetensors.h"

namespace espalier::policy {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::random_weights;
using testing::tiny_shape;

template <class Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const common::PolicyError& error) {
    return error.what();
  }
  return "no error";
}

class WeightsFiles : public ::testing::Test {
 protected:
  std::string load_message() {
    return message_of([&] { load_weights(dir()); });
  }
  const std::filesystem::path& dir() const { return directory_.path(); }
  void write(const std::string& name, std::string_view content) {
    common::write_file_atomically(dir() / name, content);
  }
  void write_safetensors(const std::string& header, size_t data_bytes) {
    uint64_t size = header.size();
    std::string content(8, '\0');
    std::memcpy(content.data(), &size, 8);
    write("model.safetensors", content + header + std::string(data_bytes, '\1'));
  }
  std::string safetensors_message(const std::string& header, size_t data_bytes) {
    write_safetensors(header, data_bytes);
    return message_of([&] { load_safetensors(dir() / "model.safetensors"); });
  }

  common::TempDir directory_;
};

TEST(Weights, FreshOnesDependOnTheKeyAlone) {
  const WeightsPtr a = init_weights(tiny_shape(), common::RngKey{1});
  const WeightsPtr b = init_weights(tiny_shape(), common::RngKey{1});
  const WeightsPtr c = init_weights(tiny_shape(), common::RngKey{2});
  EXPECT_EQ(digest(a), digest(b));
  EXPECT_NE(digest(a), digest(c));
  EXPECT_EQ(digest(make_model(tiny_shape(), 4)), digest(make_model(tiny_shape(), 4)));
  size_t count = 0;
  for (const auto& [name, tensor] : a->tensors) count += static_cast<size_t>(tensor.numel());
  EXPECT_EQ(count, tiny_shape().parameters());
}

TEST(Weights, FirstValuesOfAFreshModelStayTheSame) {
  const auto weights = init_weights(tiny_shape(), common::RngKey{1});
  const at::Tensor& q = weights->at("model.layers.0.self_attn.q_proj.weight");
  common::Rng rng(common::derive_key(1, "init", "model.layers.0.self_attn.q_proj.weight"));
  for (int i = 0; i < 5; ++i) {
    EXPECT_FLOAT_EQ(q.const_data_ptr<float>()[i],
                    static_cast<float>(rng.normal() / std::sqrt(24.0)));
  }
}

TEST(Weights, CloneIsDeepAndWithoutGradients) {
  auto weights = random_weights(tiny_shape(), 3);
  weights->tensors["model.norm.weight"].set_requires_grad(true);
  const auto copy = weights->clone();
  EXPECT_FALSE(copy->at("model.norm.weight").requires_grad());
  copy->tensors["model.embed_tokens.weight"].fill_(0);
  EXPECT_GT(weights->at("model.embed_tokens.weight").abs().max().item<float>(), 0);
  EXPECT_EQ(weights->clone(at::kDouble)->at("model.norm.weight").scalar_type(), at::kDouble);
  EXPECT_THROW(weights->at("nothing"), common::PolicyError);
}

TEST_F(WeightsFiles, LoadsWhatItSavedInEveryDtypeAndShape) {
  for (bool tied : {true, false}) {
    for (bool qk_norm : {true, false}) {
      for (at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
        ModelShape shape = tiny_shape();
        shape.tie_word_embeddings = tied;
        shape.qk_norm = qk_norm;
        shape.rope_theta = 1e6;
        const WeightsPtr weights = random_weights(shape, 5)->clone(dtype);
        save_model(dir(), weights);
        const WeightsPtr loaded = load_model(dir());
        EXPECT_EQ(shape_of(loaded), shape);
        EXPECT_EQ(digest(loaded), digest(weights));
      }
    }
  }
}

TEST_F(WeightsFiles, LoadsShards) {
  const auto weights = random_weights(tiny_shape(), 6);
  save_weights(dir(), *weights);
  std::filesystem::remove(dir() / "model.safetensors");
  TensorMap first, second;
  json map;
  for (const auto& [name, tensor] : weights->tensors) {
    const bool left = first.size() <= second.size();
    (left ? first : second).emplace(name, tensor);
    map[name] = left ? "a.safetensors" : "b.safetensors";
  }
  save_safetensors(dir() / "a.safetensors", first);
  save_safetensors(dir() / "b.safetensors", second);
  write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  EXPECT_EQ(digest(load_model(dir())), digest(weights));
  map["model.norm.weight"] = "../b.safetensors";
  write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  EXPECT_THAT(load_message(), HasSubstr("../b.safetensors"));
}

TEST_F(WeightsFiles, NamesMissingStrangeAndMisshapenTensors) {
  auto weights = random_weights(tiny_shape(), 7);
  const at::Tensor norm = weights->tensors["model.norm.weight"];
  weights->tensors.erase("model.norm.weight");
  save_weights(dir(), *weights);
  EXPECT_THAT(load_message(), HasSubstr("model.norm.weight is missing"));
  weights->tensors["model.norm.weight"] = norm.slice(0, 0, 3);
  save_weights(dir(), *weights);
  EXPECT_THAT(load_message(), HasSubstr("has shape [3]; config.json wants [24]"));
  weights->tensors["model.norm.weight"] = norm.to(at::kInt);
  save_weights(dir(), *weights);
  EXPECT_THAT(load_message(), HasSubstr("dtype Int"));
  weights->tensors["model.norm.weight"] = norm;
  weights->tensors["model.extra"] = norm;
  save_weights(dir(), *weights);
  EXPECT_THAT(load_message(), HasSubstr("model.extra"));
}

TEST_F(WeightsFiles, RefusesConfigurationsItCannotHonour) {
  save_weights(dir(), *random_weights(tiny_shape(), 8));
  const json good = json::parse(common::read_file(dir() / "config.json"));
  const std::vector<std::pair<std::string, json>> damages = {
      {"model_type", "gpt2"},
      {"vocab_size", -3},
      {"hidden_size", "many"},
      {"num_key_value_heads", 3},
      {"head_dim", 15},
      {"rope_theta", 0},
      {"rms_norm_eps", nullptr},
      {"hidden_act", "gelu"},
      {"attention_bias", true},
      {"tie_word_embeddings", 1},
      {"vocab_size", nullptr},
      {"max_position_embeddings", 0},
      {"rope_scaling", {{"rope_type", "yarn"}}}};
  for (const auto& [key, value] : damages) {
    json file = good;
    file[key] = value;
    write("config.json", file.dump());
    if (key == "rms_norm_eps") {
      EXPECT_EQ(load_shape(dir() / "config.json").rms_norm_eps, 1e-6);  // null: the default
    } else {
      EXPECT_THAT(message_of([&] { load_shape(dir() / "config.json"); }), HasSubstr(key)) << value;
    }
  }
  write("config.json", "[1]");
  EXPECT_THAT(load_message(), HasSubstr("not a JSON object"));
  std::filesystem::remove(dir() / "config.json");
  EXPECT_THAT(load_message(), HasSubstr("config.json"));
}

TEST_F(WeightsFiles, ReadsBothSpellingsOfTheRopeBase) {
  json file = json::parse(to_json(tiny_shape()));
  file.erase("rope_theta");
  file["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  write("config.json", file.dump());
  EXPECT_EQ(load_shape(dir() / "config.json").rope_theta, 5e5);
}

TEST_F(WeightsFiles, RefusesDamagedSafetensors) {
  const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                           R"("b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})";
  EXPECT_EQ(safetensors_message(good, 12), "no error");
  auto one = [&](const std::string& entry, size_t bytes) {
    return safetensors_message(R"({"a":)" + entry + "}", bytes);
  };
  EXPECT_THAT(safetensors_message(good, 11), HasSubstr("outside"));
  EXPECT_THAT(safetensors_message(good, 13), HasSubstr("of 13 data bytes"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,9]})", 9), HasSubstr("needs 8"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8), HasSubstr("outside"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[4,12]})", 12),
              HasSubstr("begins at 4"));
  EXPECT_THAT(one(R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})", 8), HasSubstr("F99"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", 8), HasSubstr("shape"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]})", 8),
              HasSubstr("exceeds the file"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[18446744073709551615,0],"data_offsets":[0,0]})", 0),
              HasSubstr("exceeds the file"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2]})", 8), HasSubstr("lacks"));
  EXPECT_THAT(one(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", 8),
              HasSubstr("data_offsets"));
  EXPECT_THAT(one("3", 8), HasSubstr("lacks"));
  EXPECT_THAT(safetensors_message(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                  R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                  8),
              HasSubstr("neither overlap"));
  EXPECT_THAT(safetensors_message("{\"a\":", 0), HasSubstr("not a JSON object"));
}

TEST_F(WeightsFiles, RefusesTruncatedHeaders) {
  auto message = [&] { return message_of([&] { load_safetensors(dir() / "model.safetensors"); }); };
  write("model.safetensors", "abc");
  EXPECT_THAT(message(), HasSubstr("8 bytes"));
  write("model.safetensors", std::string(8, '\xff'));
  EXPECT_THAT(message(), HasSubstr("by its length"));
  std::string content(8, '\0');
  content[0] = 100;
  write("model.safetensors", content + "{}");
  EXPECT_THAT(message(), HasSubstr("100 bytes by its length"));
  std::filesystem::remove(dir() / "model.safetensors");
  EXPECT_THAT(message(), HasSubstr("model.safetensors"));
}

TEST_F(WeightsFiles, EmptyAndIntegerTensorsSurvive) {
  TensorMap tensors;
  tensors["empty"] = at::arange(0, at::kFloat);
  tensors["steps"] = at::arange(5, at::kLong);
  tensors["scalar"] = at::arange(3, at::kDouble)[2];
  save_safetensors(dir() / "x.safetensors", tensors, {{"step", "3"}});
  const TensorMap loaded = load_safetensors(dir() / "x.safetensors");
  ASSERT_EQ(loaded.size(), 3u);
  for (const auto& [name, tensor] : tensors)
    EXPECT_TRUE(at::equal(loaded.at(name), tensor)) << name;
}

}  // namespace
}  // namespace espalier::policy
