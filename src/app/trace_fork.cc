#include "app/trace_fork.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

#include "app/env_shell.h"
#include "app/recorded_run.h"
#include "common/error.h"
#include "envs/agents.h"
#include "tree/trace_json.h"
#include "tree/trace_text.h"

namespace espalier::app {
namespace {

constexpr int kTimedOut = 124;  // as timeout(1) says it

std::string quoted(const std::string& word) {
  std::string text = "'";
  for (char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

std::string shell_line(const std::vector<std::string>& words) {
  if (words.size() == 1) return words.front();
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + quoted(word);
  return line;
}

std::string name_of(const tree::FoundNode& place) {
  const std::string index = std::to_string(place.found.tree.index);
  if (place.node < 0) return index + "/ (the task's start)";
  const tree::Node& node = place.found.tree.nodes[place.node];
  return index + "/" + node.path + " (" + node.id.hex().substr(0, 12) + ")";
}

tree::Json as_json(const tree::FoundNode& place, const Reopened& reopened, const std::string& line,
                   const envs::Observation& seen) {
  const tree::Tree& tree = place.found.tree;
  const auto paths = [&](const std::vector<int>& nodes) {
    tree::Json list = tree::Json::array();
    for (int node : nodes) list.push_back(tree.nodes[node].path);
    return list;
  };
  tree::Json json{{"tree", tree.index}, {"task", tree.task}};
  json["node"] =
      place.node < 0 ? tree::Json(nullptr) : tree::Json(tree.nodes[place.node].id.full_hex());
  json["path"] = place.node < 0 ? "" : tree.nodes[place.node].path;
  json["snapshot"] =
      reopened.snapshot.empty() ? tree::Json(nullptr) : tree::Json(reopened.snapshot);
  json["run_again"] = paths(reopened.executed);
  json["differed"] = paths(reopened.differed);
  json["command"] = line;
  json["output"] = seen.output;
  json["exit_code"] = seen.exit_code;
  json["timed_out"] = seen.timed_out;
  return json;
}

int run_one(const ForkArguments& arguments, const tree::FoundNode& place, Reopened& reopened) {
  const std::string line = shell_line(arguments.command);
  const auto seen = common::await<envs::Observation>([&](auto done) {
    reopened.environment->run(line, envs::deadline_after(arguments.timeout_s), std::move(done));
  });
  if (arguments.json) {
    fmt::print("{}\n", tree::dump(as_json(place, reopened, line, seen), 2));
  } else {
    std::fwrite(seen.output.data(), 1, seen.output.size(), stdout);
    std::fflush(stdout);
    if (seen.timed_out)
      fmt::print(stderr, "espalier: killed after {:g} s (--timeout)\n", arguments.timeout_s);
  }
  return seen.timed_out ? kTimedOut : seen.exit_code;
}

}  // namespace

int fork_at(const ForkArguments& arguments) {
  if (arguments.json && arguments.command.empty())
    throw common::ConfigError(
        "trace fork --json: needs a command, as in: trace fork RUN NODE "
        "--json -- 'ls -l'");
  const tree::FoundNode place = tree::find_place(arguments.run, arguments.node);
  const RecordedRun run(arguments.run);
  Reopened reopened = reopen(run, place);
  const tree::Tree& tree = place.found.tree;
  if (!arguments.json) {
    fmt::print(stderr, "{}: {}\n", name_of(place), how_reopened(tree, place.node, reopened));
    if (place.node >= 0 && tree.nodes[place.node].command_state == tree::CommandState::sent)
      fmt::print(stderr, "note: its command was never answered; this is the state before it\n");
  }
  if (!arguments.command.empty()) return run_one(arguments, place, reopened);
  if (isatty(STDIN_FILENO))
    fmt::print("{}\n[a copy: nothing done here changes the run; `exit` or Ctrl-D leaves]\n",
               tree::first_line(tree.prompt, 200));
  std::fflush(nullptr);
  run_command_lines(*reopened.environment, arguments.timeout_s);
  if (isatty(STDIN_FILENO)) fmt::print("\n");
  return common::kExitOk;
}

}  // namespace espalier::app
