#include "learner/trainable.h"

#include <ATen/ops/matmul.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "learner/learner.h"
#include "learner/micro_batch.h"
#include "learner/random_trees.h"
#include "policy/model_io.h"
#include "policy/safetensors.h"

namespace espalier::learner {
namespace {

using test::pointers;
using test::relative_error;
using test::TreeMaker;

std::vector<tree::Tree> random_trees(uint64_t seed) {
  std::vector<tree::Tree> trees = TreeMaker(seed, {.depth = 3}).make(3);
  test::estimate(trees, "tree_loo", seed);
  return trees;
}

LearnerOptions lora_options() {
  LearnerOptions options;
  options.device = "cpu";
  options.learner.optim.lr = 1e-2;
  options.learner.optim.lr_warmup_steps = 0;
  options.learner.lora.rank = 3;
  options.learner.lora.alpha = 6;
  return options;
}

at::Tensor log_probs(const policy::Weights& weights, const std::vector<tree::Tree>& trees) {
  const Packed packed = pack(pointers(trees), {}).at(0);
  return evaluate(weights,
                  make_micro_batch(packed, std::vector<double>(packed.edges.size(), 1.0), weights))
      .log_probs;
}

TEST(Lora, StartsAsTheModelItself) {
  const auto model = test::small_model(at::kFloat, false);
  const LearnerOptions options = lora_options();
  const Trainable trainable(*model, {.device = "cpu", .lora = options.learner.lora});
  EXPECT_EQ(trainable.parameters().size(), 2 * 7 * 2u) << "two halves, seven targets, two layers";
  EXPECT_EQ(policy::digest(trainable.merged()), policy::digest(model));
  EXPECT_TRUE(
      log_probs(trainable.for_pass(), random_trees(1)).equal(log_probs(*model, random_trees(1))));
}

TEST(Lora, TrainsAdaptersAloneAndMergesThem) {
  const auto model = test::small_model(at::kFloat, false);
  const std::string before = policy::digest(model);
  Learner learner(model, lora_options());
  for (int step = 0; step < 3; ++step)
    learner.update(random_trees(static_cast<uint64_t>(step) + 1), step);
  const policy::WeightsPtr merged = learner.weights();
  EXPECT_EQ(policy::digest(model), before);
  EXPECT_TRUE(merged->adapters.empty());
  for (const char* frozen : {"model.embed_tokens.weight", "model.norm.weight"})
    EXPECT_TRUE(merged->at(frozen).equal(model->at(frozen))) << frozen;
  const at::Tensor moved = merged->at("model.layers.1.mlp.up_proj.weight") -
                           model->at("model.layers.1.mlp.up_proj.weight");
  EXPECT_GT(moved.norm().item<double>(), 1e-4);
}

/// adapter/ is what PEFT reads: W + alpha/r · B·A is the merged weight.
TEST(Lora, ExportsAPeftAdapterThatGivesTheMergedWeights) {
  const common::TempDir directory;
  const auto model = test::small_model(at::kFloat, false);
  Learner learner(model, lora_options());
  learner.update(random_trees(1), 0);
  learner.optimizer_writer()(directory.path());
  const auto config =
      nlohmann::json::parse(common::read_file(directory.path() / "adapter/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 3);
  EXPECT_EQ(config["lora_alpha"], 6.0);
  auto adapter = policy::load_safetensors(directory.path() / "adapter/adapter_model.safetensors");
  const std::string module = "model.layers.0.self_attn.q_proj";
  const at::Tensor a = adapter.at("base_model.model." + module + ".lora_A.weight"),
                   b = adapter.at("base_model.model." + module + ".lora_B.weight");
  const at::Tensor expected = model->at(module + ".weight") + 2.0 * at::matmul(b, a);
  EXPECT_LE(relative_error(learner.weights()->at(module + ".weight"), expected), 1e-6);
}

TEST(Lora, GoesOnBitForBit) {
  const common::TempDir directory;
  const auto model = test::small_model(at::kFloat, false);
  Learner whole(model, lora_options());
  whole.update(random_trees(1), 0);
  whole.optimizer_writer()(directory.path());
  Learner resumed(model, lora_options());
  resumed.load_optimizer(directory.path());
  EXPECT_EQ(policy::digest(resumed.weights()), policy::digest(whole.weights()));
  for (Learner* learner : {&whole, &resumed}) learner->update(random_trees(2), 1);
  EXPECT_EQ(policy::digest(resumed.weights()), policy::digest(whole.weights()));
  LearnerOptions other = lora_options();
  other.learner.lora.rank = 2;
  Learner narrow(model, other);
  EXPECT_THROW(narrow.load_optimizer(directory.path()), common::StoreError);
}

TEST(Lora, PackedEqualsLinear) {
  auto trained = [](const std::string& packing) {
    LearnerOptions options = lora_options();
    options.learner.packing = packing;
    options.learner.optim.eps = 1e-6;
    Learner learner(test::small_model(at::kDouble, false), options);
    for (int step = 0; step < 3; ++step)
      learner.update(random_trees(static_cast<uint64_t>(step) + 1), step);
    return learner.weights();
  };
  const auto packed = trained("packed"), linear = trained("linear");
  for (const auto& [name, tensor] : packed->tensors)
    EXPECT_LE(relative_error(tensor, linear->at(name)), 1e-10) << name;
}

TEST(Trainable, MastersStayFloat32AndPassesAreBFloat16) {
  const Trainable trainable(*test::small_model(at::kFloat, false),
                            {.device = "cpu", .dtype = "bfloat16", .lora = {}});
  EXPECT_EQ(trainable.for_pass().at("model.norm.weight").scalar_type(), at::kBFloat16);
  EXPECT_EQ(trainable.merged()->at("model.norm.weight").scalar_type(), at::kFloat);
  EXPECT_THROW(Trainable(*test::small_model(at::kFloat, false),
                         {.device = "cpu", .dtype = "float16", .lora = {}}),
               common::ConfigError);
}

TEST(Learner, DemonstrationsBesideRlLowerTheirLoss) {
  LearnerOptions options = lora_options();
  options.learner.lora.rank = 0;
  options.learner.sft_coef = 1.0;
  Learner learner(test::small_model(at::kFloat, false), options);
  const std::vector<tree::Tree> shown = TreeMaker(77, {.depth = 2}).make(4);
  double first = 0, last = 0;
  for (int step = 0; step < 12; ++step) {
    last = learner.update(random_trees(1), step, pointers(shown)).metrics.at("sft/loss");
    if (step == 0) first = last;
  }
  EXPECT_LT(last, 0.8 * first);
}

TEST(Learner, DivergenceIsMeasuredFromTheReference) {
  LearnerOptions options = lora_options();
  options.learner.lora.rank = 0;
  options.learner.kl_loss_coef = 0.1;
  const auto start = test::small_model(at::kFloat, false);
  Learner learner(start, options);
  learner.set_reference(start);
  EXPECT_NEAR(learner.update(random_trees(1), 0).metrics.at("actor/kl_loss"), 0, 1e-6);
  EXPECT_GT(learner.update(random_trees(1), 1).metrics.at("actor/kl_loss"), 1e-5);
}

}  // namespace
}  // namespace espalier::learner
