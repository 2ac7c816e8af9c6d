#include "app/session.h"

#include <fmt/core.h>

#include "app/algorithm.h"
#include "common/error.h"
#include "envs/container/backend.h"
#include "envs/limits.h"
#include "envs/nursery/nursery.h"
#include "envs/sandbox/backend.h"
#include "envs/sandbox/network.h"
#include "policy/model_io.h"

namespace espalier::app {

namespace {

policy::ModelShape shape_from(const common::ModelConfig& model, size_t vocab_size) {
  policy::ModelShape shape;
  shape.vocab_size = static_cast<int>(vocab_size);
  shape.hidden_size = model.hidden_size;
  shape.num_hidden_layers = model.num_hidden_layers;
  shape.num_attention_heads = model.num_attention_heads;
  shape.num_key_value_heads = model.num_key_value_heads;
  shape.head_dim = model.hidden_size / model.num_attention_heads;
  shape.intermediate_size = model.intermediate_size;
  shape.max_position_embeddings = model.max_position_embeddings;
  shape.rope_theta = model.rope_theta;
  shape.qk_norm = model.qk_norm;
  return shape;
}

tree::Durability durability(const std::string& name) {
  if (name == "none") return tree::Durability::none;
  return name == "sync" ? tree::Durability::sync : tree::Durability::batch;
}

std::unique_ptr<tree::JournalWriter> make_journal(const common::Config& config,
                                                  const RunDirectory* run) {
  if (!run) return nullptr;
  return std::make_unique<tree::JournalWriter>(run->journal(), durability(config.durability));
}

envs::Limits limits_of(const common::Config& config) {
  envs::Limits limits;
  limits.memory_bytes = static_cast<size_t>(config.env.memory_mb) << 20;
  limits.disk_bytes = static_cast<size_t>(config.env.disk_mb) << 20;
  limits.pids = config.env.pids;
  limits.cpus = config.env.cpus;
  return limits;
}

/// What no task could be given on this machine is refused before any work.
void check_environment(const common::Config& config) {
  try {
    envs::check_limits(limits_of(config), true);
  } catch (const common::TaskError& error) {
    throw common::ConfigError(std::string("env: ") + error.what());
  }
  const std::string why = config.env.network ? envs::sandbox::why_no_network() : "";
  if (!why.empty()) throw common::Unsupported("env.network: " + why);
}

tree::ModelCost model_cost(const policy::WeightsPtr& weights) {
  const policy::ModelShape shape = policy::shape_of(weights);
  return {static_cast<double>(shape.parameters()), static_cast<double>(shape.num_hidden_layers) *
                                                       shape.num_attention_heads * shape.head_dim};
}

}  // namespace

rollout::KeepSnapshots parse_keep_snapshots(const std::string& name) {
  if (name == "keep-none") return rollout::KeepSnapshots::none;
  return name == "keep-all" ? rollout::KeepSnapshots::all : rollout::KeepSnapshots::branching;
}

policy::EngineOptions engine_options(const common::Config& config) {
  policy::EngineOptions options;
  options.deterministic = config.deterministic;
  options.device = config.model.device;
  return options;
}

rollout::FarmOptions farm_options(const common::Config& config) {
  rollout::FarmOptions options;
  options.run_seed = config.seed;
  options.deterministic = config.deterministic;
  options.workers = config.rollout.workers;
  options.max_live = static_cast<size_t>(config.rollout.max_live);
  options.max_kept = static_cast<size_t>(config.rollout.max_kept);
  options.infra_retries = config.rollout.infra_retries;
  options.max_turns = config.rollout.max_assistant_turns;
  options.max_observation_tokens = config.rollout.max_observation_length;
  options.command_timeout_s = config.rollout.command_timeout_s;
  options.snapshots = parse_keep_snapshots(config.env.snapshots);
  options.image = config.env.image;
  options.network = config.env.network;
  options.limits = limits_of(config);
  return options;
}

policy::SamplingOptions sampling_options(const common::Config& config, double temperature) {
  policy::SamplingOptions sampling;
  sampling.temperature = temperature;
  sampling.top_p = config.rollout.top_p;
  sampling.top_k = config.rollout.top_k;
  sampling.max_new_tokens = config.rollout.max_response_length;
  return sampling;
}

Start load_start(const std::filesystem::path& directory) {
  return {policy::load_model(directory), policy::Tokenizer::load(directory / "tokenizer.json")};
}

Start start_point(const common::Config& config) {
  try {
    for (const std::string& family : config.data.families) envs::nursery::tier_of(family);
  } catch (const common::TaskError& error) {
    throw common::ConfigError(fmt::format("data.families: {}", error.what()));
  }
  if (!config.model.path.empty()) return load_start(config.model.path);
  Start start;
  start.tokenizer = policy::Tokenizer::from_pieces(envs::nursery::token_pieces());
  start.weights =
      policy::make_model(shape_from(config.model, start.tokenizer->vocab_size()), config.seed);
  return start;
}

std::unique_ptr<envs::Backend> make_backend(const common::Config& config,
                                            const std::filesystem::path& snapshots) {
  if (config.env.backend == "container") {
    envs::ContainerOptions options;
    options.socket = config.env.engine_socket;
    if (config.env.image != envs::kHostImage) options.image = config.env.image;
    options.snapshot_dir = snapshots;
    return envs::make_container_backend(options);
  }
  check_environment(config);
  envs::SandboxOptions options;
  options.snapshot_dir = snapshots;
  options.extra_command_delay_ms_max = static_cast<int>(config.env.inject_delay_ms);
  options.delay_seed = config.seed;
  try {
    return envs::make_sandbox_backend(options);
  } catch (const common::SandboxError& error) {
    throw common::Unsupported(
        fmt::format("{}\nRun `espalier doctor` to see what this machine can do.", error.what()));
  }
}

Session::Session(const common::Config& config_, const SessionOptions& options)
    : config(config_),
      journal(make_journal(config_, options.run)),
      scratch("espalier-tasks", common::TempPlace::memory),
      tasks(envs::make_task_sources(scratch.path())),
      backend(make_backend(config_, options.run ? options.run->snapshots() : scratch.path())),
      tokenizer(options.tokenizer),
      engine(policy::make_engine(options.weights, engine_options(config_))),
      ledger(config_.budget.unit, config_.budget.limit, model_cost(options.weights)),
      side_ledger(config_.budget.unit, 0, ledger.model()) {
  rule = fork_rule_of(config);
  rollout::FarmParts parts;
  parts.backend = backend.get();
  parts.policy = engine.get();
  parts.tokenizer = tokenizer;
  parts.ledger = &side_ledger;
  side_farm = std::make_unique<rollout::Farm>(parts, farm_options(config));
  parts.rule = rule.get();
  parts.journal = journal.get();
  parts.ledger = &ledger;
  farm = std::make_unique<rollout::Farm>(parts, farm_options(config));
}

Session::~Session() {
  farm.reset();
  side_farm.reset();
  engine->close();
}

}  // namespace espalier::app
