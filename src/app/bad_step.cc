#include "app/bad_step.h"

#include <fmt/core.h>

#include "common/files.h"
#include "policy/model_io.h"
#include "tree/store.h"

namespace espalier::app {

std::filesystem::path save_bad_step(const RunDirectory& run, const common::Config& config,
                                    const BadStep& bad) {
  std::filesystem::path root =
      std::filesystem::absolute(run.bad_steps() / fmt::format("step_{:06}", bad.step));
  const std::filesystem::path model = root / "model";
  std::filesystem::create_directories(model);
  std::filesystem::create_directories(root / "trees");
  tree::write_trees(tree::shard_path(root, 0), *bad.trees);
  policy::save_model(model, bad.start.weights);
  common::write_file_atomically(model / "tokenizer.json", bad.start.tokenizer->to_json());
  common::Config replay = config;
  replay.name = "replay";
  replay.run_dir = root.string();
  replay.model.path = model.string();
  replay.data.trees = root.string();
  replay.data.counterfactuals = false;  // they are among the trees
  replay.data.from_step = -1;
  replay.data.counterfactuals = false;
  replay.sft.episodes = 0;
  replay.eval.n = 0;
  replay.trainer.total_steps = 1;
  replay.budget.limit = 0;
  common::write_file_atomically(root / "config.yaml", common::to_yaml(replay));
  return root;
}

}  // namespace espalier::app
