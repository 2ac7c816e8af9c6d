// espalier trace fork and replay: the trace commands that need sandboxes.
#include <fmt/core.h>

#include <memory>

#include "app/commands.h"
#include "app/counterfactual.h"
#include "app/pager.h"
#include "app/trace_fork.h"
#include "app/trace_replay.h"
#include "common/error.h"
#include "common/stop.h"

namespace espalier::app {
namespace {

struct ReplayArguments {
  std::string run, place;
  CounterfactualArguments edit;
  bool json = false;

  bool edited() const {
    return !edit.action.empty() || !edit.policy.empty() || !edit.prompt.empty();
  }
};

int replay_edited(const ReplayArguments& arguments) {
  if (arguments.place.empty())
    throw common::ConfigError(
        "trace replay: --action, --policy and --prompt need the node from which they hold");
  CounterfactualArguments edit = arguments.edit;
  edit.run = arguments.run;
  edit.node = arguments.place;
  const Counterfactual result = run_counterfactual(edit);
  fmt::print("{}", arguments.json ? tree::dump(to_json(result), 2) + "\n" : to_text(result, {}));
  const tree::Outcome outcome = result.tree.tree.nodes.back().outcome;
  const bool judged =
      outcome != tree::Outcome::infra_failed && outcome != tree::Outcome::verifier_failed;
  return judged ? common::kExitOk : common::kExitFailure;
}

int replay(const ReplayArguments& arguments) {
  common::install_stop_handlers();
  if (arguments.edited()) return replay_edited(arguments);
  tree::Json trees = tree::Json::array();
  int same = 0, real = 0, only_volatile = 0;
  replay_run(arguments.run, arguments.place, [&](const TreeReplay& replay) {
    (!replay.first ? same : replay.real > 0 ? real : only_volatile) += 1;
    if (arguments.json) {
      trees.push_back(to_json(replay));
    } else {
      fmt::print("{}", to_text(replay));
      std::fflush(stdout);
    }
  });
  if (arguments.json) {
    fmt::print("{}\n", tree::dump({{"ok", real == 0},
                                   {"as_recorded", same},
                                   {"only_volatile", only_volatile},
                                   {"real", real},
                                   {"trees", trees}},
                                  2));
  } else {
    fmt::print("{} trees: {} as recorded, {} differ in what is volatile, {} really\n",
               same + real + only_volatile, same, only_volatile, real);
  }
  return real == 0 ? common::kExitOk : common::kExitCheckFailed;
}

void add_fork(CLI::App& trace, int& exit_code) {
  auto arguments = std::make_shared<ForkArguments>();
  CLI::App* command = trace.add_subcommand(
      "fork", "A shell in the environment as it was at a node; nothing of it changes the run");
  command->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  command
      ->add_option("node", arguments->node,
                   "Beginning of a node's id, TREE/PATH (3/r2/t5/b1), or task-3: its start")
      ->required();
  command->add_option("command", arguments->command,
                      "After --: run this and leave, with its exit code; without: a shell");
  command->add_option("--timeout", arguments->timeout_s, "Seconds a command may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "As JSON; with a command");
  command->footer(
      "Examples:\n"
      "  espalier trace fork runs/quickstart 3/r2/t5\n"
      "  espalier trace fork runs/quickstart 3/r2/t5 -- 'ls -l; cat note'");
  command->callback([arguments, &exit_code] { exit_code = fork_at(*arguments); });
}

void add_replay(CLI::App& trace, int& exit_code) {
  auto arguments = std::make_shared<ReplayArguments>();
  CLI::App* command = trace.add_subcommand(
      "replay", "Run the recorded commands again in fresh sandboxes and compare");
  command->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  command->add_option(
      "tree", arguments->place,
      "One tree: its index, or the beginning of its id; with an edit: the node from "
      "which it holds (3/r2/t5; task-3: the start)");
  command->add_option("--action", arguments->edit.action,
                      "The next command, in place of the policy's; the policy goes on");
  command
      ->add_option("--policy", arguments->edit.policy,
                   "Checkpoint that goes on; without: the run's newest")
      ->check(CLI::ExistingDirectory);
  command
      ->add_option("--prompt", arguments->edit.prompt,
                   "File with another instruction, which the policy reads in place of the task's")
      ->check(CLI::ExistingFile);
  command->add_flag("--json", arguments->json, "As JSON");
  command->footer(
      "Exit code 4 when something differs that is not volatile (time, process id, …).\n"
      "With an edit: opens the node's environment, lets the policy finish, verifies, and keeps "
      "the\n"
      "branch in RUN/counterfactuals, out of training (data.counterfactuals=true takes it in).\n"
      "Examples:\n"
      "  espalier trace replay runs/quickstart\n"
      "  espalier trace replay runs/quickstart 3/r2/t5 --action 'cat note'\n"
      "  espalier trace replay runs/quickstart 3/r2/t5 --policy "
      "runs/other/checkpoints/step_000100");
  command->callback([arguments, &exit_code] { exit_code = replay(*arguments); });
}

}  // namespace

void add_trace_sandbox_commands(CLI::App& trace, int& exit_code) {
  add_fork(trace, exit_code);
  add_replay(trace, exit_code);
}

}  // namespace espalier::app
