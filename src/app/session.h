// The parts of a run, wired together from its configuration: what train, sft, rollout, eval and
// bench share.
#pragma once

#include <memory>
#include <string>

#include "app/run_directory.h"
#include "common/config.h"
#include "common/files.h"
#include "envs/environment.h"
#include "envs/task.h"
#include "policy/engine.h"
#include "policy/tokenizer.h"
#include "rollout/farm.h"
#include "tree/fork_rule.h"
#include "tree/journal.h"
#include "tree/ledger.h"

namespace espalier::app {

/// What a session works with besides the configuration.
struct SessionOptions {
  const RunDirectory* run = nullptr;  // null: no journal (eval, bench)
  policy::WeightsPtr weights;
  policy::TokenizerPtr tokenizer;
};

/// Thread contract: one owner. Members are declared in order of dependence; destruction stops the
/// farm first.
class Session {
 public:
  Session(const common::Config& config, const SessionOptions& options);
  ~Session();

  const common::Config& config;
  std::unique_ptr<tree::JournalWriter> journal;  // first: it keeps a second process off the run
  common::TempDir scratch;                       // materialised tasks
  std::unique_ptr<envs::TaskSource> tasks;
  std::unique_ptr<envs::Backend> backend;
  policy::TokenizerPtr tokenizer;
  std::unique_ptr<policy::Engine> engine;
  std::unique_ptr<tree::ForkRule> rule;
  tree::Ledger ledger;                  // of training; demonstrations and evaluation have their own
  std::unique_ptr<rollout::Farm> farm;  // training: forks, counts, journals
  std::unique_ptr<rollout::Farm>
      side_farm;  // demonstrations and evaluation: no forks, not in the budget
  tree::Ledger side_ledger;
};

/// Model and tokenizer a run starts from: model.path, or a fresh one with the nursery's vocabulary.
struct Start {
  policy::WeightsPtr weights;
  policy::TokenizerPtr tokenizer;
};
Start start_point(const common::Config& config);
/// Those of a Hugging Face directory. Errors: PolicyError.
Start load_start(const std::filesystem::path& directory);

/// The sandboxes, as the configuration limits them. Errors: Unsupported, with what to do.
std::unique_ptr<envs::Backend> make_backend(const common::Config& config,
                                            const std::filesystem::path& snapshots);

policy::EngineOptions engine_options(const common::Config& config);
rollout::FarmOptions farm_options(const common::Config& config);

/// "keep-none", "keep-branching" or "keep-all".
rollout::KeepSnapshots parse_keep_snapshots(const std::string& name);

policy::SamplingOptions sampling_options(const common::Config& config, double temperature);

}  // namespace espalier::app
