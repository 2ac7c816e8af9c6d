#include "app/bench_learner.h"

#include <vector>

#include "app/session.h"
#include "policy/device.h"
#include "policy/model_io.h"

namespace espalier::app {
namespace {

using Json = nlohmann::json;

policy::WeightsPtr make_policy(const LearnerBenchArguments& arguments) {
  common::Config config;
  config.model.hidden_size = arguments.hidden_size;
  config.model.num_hidden_layers = arguments.layers;
  config.model.num_attention_heads = arguments.heads;
  config.model.num_key_value_heads = arguments.heads;
  config.model.intermediate_size = arguments.intermediate_size;
  config.model.max_position_embeddings = 65536;
  return start_point(config).weights;
}

Json shape_json(const learner::TreeShape& shape) {
  return {{"trees", shape.trees},
          {"roots", shape.roots},
          {"branches", shape.branches},
          {"turns", shape.turns},
          {"prompt_tokens", shape.prompt_tokens},
          {"action_tokens", shape.action_tokens},
          {"observation_tokens", shape.observation_tokens}};
}

Json figures_of(const policy::WeightsPtr& weights, const learner::LearnerBench& bench) {
  const learner::LearnerFigures figures = learner::bench_learner(weights, bench);
  const double packed = static_cast<double>(figures.tokens_packed);
  const double token_ratio = static_cast<double>(figures.tokens_linear) / packed;
  const double speedup = figures.linear_ms / figures.packed_ms;
  const double peak_ratio = static_cast<double>(figures.packed_peak_bytes) /
                            static_cast<double>(figures.linear_peak_bytes);
  return {{"shape", shape_json(bench.shape)},
          {"tokens_packed", figures.tokens_packed},
          {"tokens_linear", figures.tokens_linear},
          {"token_ratio", token_ratio},
          {"packed_ms", figures.packed_ms},
          {"linear_ms", figures.linear_ms},
          {"speedup", speedup},
          {"share_of_bound", speedup / token_ratio},
          {"tokens_per_s", 1e3 * packed / figures.packed_ms},
          {"peak_bytes",
           {{"packed", figures.packed_peak_bytes}, {"linear", figures.linear_peak_bytes}}},
          {"peak_ratio", peak_ratio},
          {"peak_ratio_allowed", 1.0 / (0.8 * token_ratio)}};
}

/// The least and the most of what trees branch.
std::vector<learner::TreeShape> other_shapes(const learner::TreeShape& shape) {
  learner::TreeShape little = shape, much = shape;
  little.branches = 2;
  little.turns = 4;
  little.prompt_tokens = shape.prompt_tokens / 2;
  much.branches = 4;
  much.turns = 8;
  much.prompt_tokens = 2 * shape.prompt_tokens;
  return {little, much};
}

}  // namespace

void add_learner_options(CLI::App& command, LearnerBenchArguments& arguments) {
  auto number = [&](const char* name, int& value, const char* help) {
    command.add_option(name, value, help)->check(CLI::PositiveNumber)->capture_default_str();
  };
  learner::TreeShape& shape = arguments.bench.shape;
  number("--trees", shape.trees, "trees in the batch");
  number("--roots", shape.roots, "episodes a tree (G)");
  number("--branches", shape.branches, "branches of each episode (K)");
  number("--turns", shape.turns, "turns of an episode");
  number("--prompt-tokens", shape.prompt_tokens, "tokens of a prompt");
  number("--action-tokens", shape.action_tokens, "tokens of an action");
  number("--observation-tokens", shape.observation_tokens, "tokens of an observation");
  number("--hidden-size", arguments.hidden_size, "width of the model");
  number("--layers", arguments.layers, "its layers");
  number("--heads", arguments.heads, "its attention heads");
  number("--intermediate-size", arguments.intermediate_size, "width of its feed-forward layers");
  number("--threads", arguments.threads, "threads of a pass");
  number("-n,--repetitions", arguments.bench.repetitions, "steps of each arm, which take turns");
  command.add_option("--device", arguments.bench.device, "cpu, cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--dtype", arguments.bench.dtype, "type of the passes")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  command.add_flag("--one-shape", arguments.one_shape, "leave out the two other shapes of trees");
}

nlohmann::json bench_learner(const LearnerBenchArguments& arguments) {
  policy::set_torch_threads(arguments.threads);
  const policy::WeightsPtr weights = make_policy(arguments);
  const learner::LearnerBench& bench = arguments.bench;
  Json figures = figures_of(weights, bench);
  figures["mfu"] = nullptr;  // a CPU has no peak to speak of
  const learner::UnbranchedFigures unbranched = learner::bench_unbranched(weights, bench);
  figures["unbranched"] = {{"tokens", unbranched.tokens},
                           {"packed_ms", unbranched.packed_ms},
                           {"dense_ms", unbranched.dense_ms},
                           {"ratio", unbranched.packed_ms / unbranched.dense_ms}};
  figures["other_shapes"] = Json::array();
  for (const learner::TreeShape& shape : other_shapes(bench.shape)) {
    if (arguments.one_shape) break;
    learner::LearnerBench other = bench;
    other.shape = shape;
    figures["other_shapes"].push_back(figures_of(weights, other));
  }
  figures["model"] = {{"parameters", policy::shape_of(weights).parameters()},
                      {"hidden_size", arguments.hidden_size},
                      {"layers", arguments.layers},
                      {"dtype", bench.dtype},
                      {"threads", arguments.threads}};
  figures["n"] = bench.repetitions;
  return figures;
}

}  // namespace espalier::app
