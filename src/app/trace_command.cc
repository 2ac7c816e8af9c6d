// espalier trace: a run's trees, looked at.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "app/commands.h"
#include "app/counterfactual.h"
#include "app/pager.h"
#include "app/recorded_run.h"
#include "app/run_directory.h"
#include "app/session.h"
#include "app/trace_snapshots.h"
#include "common/error.h"
#include "common/files.h"
#include "policy/tokenizer.h"
#include "tree/run_trees.h"
#include "tree/trace_diff.h"
#include "tree/trace_export.h"
#include "tree/trace_json.h"
#include "tree/trace_text.h"
#include "tree/verify.h"

namespace espalier::app {
namespace {

namespace fs = std::filesystem;

struct TraceArguments {
  std::string run;
  std::string tree;  // empty: all
  std::string node, other;
  std::string format = "jsonl", output, policy = "keep-all";
  bool json = false;
  bool tokens = false;
};

using tree::Json;

/// A command's output: paged, unless it is for scripts.
Pager out_for(const TraceArguments& arguments) { return Pager(!arguments.json); }

tree::TextOptions text_options() {
  const char* no_colour = std::getenv("NO_COLOR");
  tree::TextOptions options;
  options.colour = ::isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
  if (const char* columns = std::getenv("COLUMNS"))
    options.width = static_cast<size_t>(std::clamp(std::atoi(columns), 60, 400));
  return options;
}

/// Null: there is none that loads.
policy::TokenizerPtr find_tokenizer(const fs::path& run) {
  try {
    return newest_tokenizer(run);
  } catch (const common::PolicyError& refused) {
    std::fprintf(stderr, "espalier: warning: tokens are shown as ids only: %s\n", refused.what());
    return nullptr;
  }
}

void log_run(const TraceArguments& arguments) {
  const tree::TextOptions options = text_options();
  Pager out = out_for(arguments);
  bool any = false;
  tree::visit_trees(arguments.run, [&](tree::RunTree&& tree) {
    const tree::TreeSummary summary = tree::summarise(tree);
    if (!any && !arguments.json) out.print(tree::summary_heading());
    any = true;
    return out.print(arguments.json ? tree::dump(tree::to_json(summary)) + "\n"
                                    : tree::summary_line(summary, options));
  });
  if (!any && !arguments.json) out.print("no trees yet in " + arguments.run + "\n");
  const auto beside = list_counterfactuals(arguments.run);
  if (!beside.empty() && !arguments.json)
    out.print(std::to_string(beside.size()) + " counterfactual branches beside them, as in: " +
              "espalier trace log " + beside.back().string() + "\n");
}

void log_tree(const TraceArguments& arguments) {
  const tree::RunTree found = tree::find_tree(arguments.run, arguments.tree);
  out_for(arguments).print(arguments.json ? tree::dump(tree::tree_json(found)) + "\n"
                                          : tree::draw_tree(found, text_options()));
}

void show_node(const TraceArguments& arguments) {
  const tree::FoundNode node = tree::find_node(arguments.run, arguments.node);
  if (arguments.json) {
    out_for(arguments).print(
        tree::dump(tree::node_json(node.found, node.node, arguments.tokens), 2) + "\n");
    return;
  }
  tree::TextOptions options = text_options();
  options.tokens = arguments.tokens;
  const policy::TokenizerPtr tokenizer = arguments.tokens ? find_tokenizer(arguments.run) : nullptr;
  if (tokenizer)
    options.token_text = [&](tree::Token token) {
      const bool known = token >= 0 && static_cast<size_t>(token) < tokenizer->vocab_size();
      return known ? tokenizer->decode({token}) : std::string();
    };
  out_for(arguments).print(tree::node_text(node.found, node.node, options));
}

/// Null: a state of the two is not stored.
Json files_changed(const TraceArguments& arguments, const std::string& a, const std::string& b) {
  if (a.empty() || b.empty()) return nullptr;
  try {
    const fs::path store = RunDirectory{arguments.run}.snapshots();
    return changed_files({store, a}, {store, b});
  } catch (const common::StoreError&) {
    return nullptr;  // dropped by gc
  }
}

void diff(const TraceArguments& arguments) {
  const tree::FoundNode a = tree::find_node(arguments.run, arguments.node);
  const tree::FoundNode b = tree::find_node(arguments.run, arguments.other);
  const Json files = files_changed(arguments, a.found.tree.nodes[a.node].snapshot,
                                   b.found.tree.nodes[b.node].snapshot);
  Pager out = out_for(arguments);
  if (arguments.json) {
    Json json = tree::diff_json(a, b);
    json["files"] = files;
    out.print(tree::dump(json, 2) + "\n");
    return;
  }
  std::string text = tree::diff_text(a, b, text_options()) + "files of the sandbox: ";
  if (files.is_null()) text += "not known (no snapshots of both nodes)\n";
  if (files.is_array() && files.empty()) text += "equal\n";
  if (files.is_array() && !files.empty()) {
    text += "\n";
    for (const auto& file : files) text += "  " + tree::printable(file.get<std::string>()) + "\n";
  }
  out.print(text);
}

/// The run, and the counterfactuals beside it.
tree::Verification verify_all(const fs::path& run) {
  tree::Verification seen = tree::verify_run(run);
  for (const fs::path& one : list_counterfactuals(run)) {
    const tree::Verification more = tree::verify_run(one);
    seen.journal_files += more.journal_files;
    seen.journal_bytes += more.journal_bytes;
    seen.records += more.records;
    seen.skipped += more.skipped;
    seen.shards += more.shards;
    seen.trees += more.trees;
    seen.nodes += more.nodes;
    seen.torn = seen.torn || more.torn;
    if (seen.problem.empty()) seen.problem = more.problem;
  }
  return seen;
}

int verify(const TraceArguments& arguments) {
  const tree::Verification seen = verify_all(arguments.run);
  const bool good = seen.problem.empty();
  Pager out(false);
  if (arguments.json) {
    out.print(tree::dump({{"ok", good},
                          {"problem", good ? Json(nullptr) : Json(seen.problem)},
                          {"torn", seen.torn},
                          {"journal_files", seen.journal_files},
                          {"journal_bytes", seen.journal_bytes},
                          {"records", seen.records},
                          {"skipped", seen.skipped},
                          {"shards", seen.shards},
                          {"trees", seen.trees},
                          {"nodes", seen.nodes}}) +
              "\n");
  } else {
    out.print(std::to_string(seen.records) + " records in " + std::to_string(seen.journal_files) +
              " journal files, " + std::to_string(seen.trees) + " trees in " +
              std::to_string(seen.shards) + " shards, " + std::to_string(seen.nodes) +
              " node ids: " + (good ? "all as written" : "first bad: " + seen.problem) + "\n");
  }
  return good ? common::kExitOk : common::kExitCheckFailed;
}

void drop(const TraceArguments& arguments) {
  const SnapshotsDropped dropped =
      drop_snapshots(arguments.run, parse_keep_snapshots(arguments.policy));
  Pager out(false);
  out.print(arguments.json ? tree::dump({{"kept", dropped.kept},
                                         {"dropped", dropped.dropped},
                                         {"bytes_freed", dropped.bytes_freed}}) +
                                 "\n"
                           : std::to_string(dropped.dropped) + " snapshots dropped, " +
                                 std::to_string(dropped.kept) + " kept, " +
                                 std::to_string(dropped.bytes_freed) + " bytes freed\n");
}

/// A directory of trajectory.json files, as Harbor's jobs have them; without one: one a line.
void export_atif(const TraceArguments& arguments, const tree::RunTree& found, Pager& out) {
  for (int leaf : found.tree.leaves()) {
    const Json trajectory = tree::atif_trajectory(found, leaf);
    if (arguments.output.empty()) {
      out.print(tree::dump(trajectory) + "\n");
      continue;
    }
    std::string name = std::to_string(found.tree.index) + "/" + found.tree.nodes[leaf].path;
    std::replace(name.begin(), name.end(), '/', '_');
    const fs::path directory = fs::path(arguments.output) / name / "agent";
    fs::create_directories(directory);
    common::write_file_atomically(directory / "trajectory.json", tree::dump(trajectory, 2) + "\n");
  }
}

void export_run(const TraceArguments& arguments) {
  Pager out(false);
  std::string text;
  const bool to_file = !arguments.output.empty() && arguments.format != "atif";
  const auto emit = [&](const std::string& piece) {
    if (to_file) {
      text += piece;
    } else {
      out.print(piece);
    }
  };
  if (arguments.format == "csv") emit(tree::csv_heading());
  const auto one = [&](const tree::RunTree& found) {
    if (arguments.format == "atif") export_atif(arguments, found, out);
    if (arguments.format == "jsonl") emit(tree::dump(tree::export_json(found)) + "\n");
    if (arguments.format == "csv") emit(tree::csv_rows(found));
  };
  if (arguments.tree.empty()) {
    tree::visit_trees(arguments.run, [&](tree::RunTree&& found) {
      one(found);
      return true;
    });
  } else {
    one(tree::find_tree(arguments.run, arguments.tree));
  }
  if (to_file) common::write_file_atomically(arguments.output, text);
}

using ArgumentsPtr = std::shared_ptr<TraceArguments>;

CLI::App* add(CLI::App& trace, const ArgumentsPtr& arguments, const char* name, const char* help) {
  CLI::App* command = trace.add_subcommand(name, help);
  command->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  command->add_flag("--json", arguments->json, "As JSON");
  return command;
}

void add_whole_run_commands(CLI::App& trace, const ArgumentsPtr& arguments, int& exit_code) {
  CLI::App* diff_command =
      add(trace, arguments, "diff", "Two nodes: their common ancestor, and what each did then");
  diff_command->add_option("a", arguments->node, "A node")->required();
  diff_command->add_option("b", arguments->other, "Another")->required();
  diff_command->callback([arguments, &exit_code] {
    diff(*arguments);
    exit_code = common::kExitOk;
  });

  add(trace, arguments, "verify",
      "Compute every checksum, id and digest again and name the first bad record")
      ->callback([arguments, &exit_code] { exit_code = verify(*arguments); });

  CLI::App* gc = add(trace, arguments, "gc", "Drop snapshots by policy; records are never dropped");
  gc->add_option("--policy", arguments->policy, "Which snapshots stay")
      ->check(CLI::IsMember({"keep-all", "keep-branching", "keep-none"}))
      ->required();
  gc->callback([arguments, &exit_code] {
    drop(*arguments);
    exit_code = common::kExitOk;
  });

  CLI::App* exported = add(trace, arguments, "export", "The trees in a format that others read");
  exported
      ->add_option("--format", arguments->format,
                   "jsonl: a tree a line; atif: a leaf a file; csv: a node a row")
      ->check(CLI::IsMember({"jsonl", "atif", "csv"}))
      ->capture_default_str();
  exported->add_option("--tree", arguments->tree,
                       "One tree: its index, or the beginning of its id");
  exported->add_option("-o,--output", arguments->output,
                       "File, of atif a directory; without: to stdout");
  exported->callback([arguments, &exit_code] {
    export_run(*arguments);
    exit_code = common::kExitOk;
  });
}

}  // namespace

void add_trace_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<TraceArguments>();
  CLI::App* trace = app.add_subcommand("trace", "Look at a run's trees");
  trace->require_subcommand(1);
  trace->footer(
      "Examples:\n"
      "  espalier trace log runs/quickstart              one line a tree\n"
      "  espalier trace log runs/quickstart --tree 3     the tree drawn\n"
      "  espalier trace show runs/quickstart 3/r2/t5/b1  one turn, by its place\n"
      "  espalier trace show runs/quickstart 9f3a --tokens\n"
      "  espalier trace diff runs/quickstart 3/r2/t5/b0 3/r2/t5/b1\n"
      "  espalier trace fork runs/quickstart 3/r2/t5     a shell, as it was then\n"
      "  espalier trace replay runs/quickstart 3         the commands again, compared\n"
      "  espalier trace verify runs/quickstart           every checksum, id and digest again\n"
      "  espalier trace export runs/quickstart --format csv -o trees.csv");

  CLI::App* log = trace->add_subcommand("log", "One line a tree; with --tree: the tree drawn");
  log->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  log->add_option("--tree", arguments->tree, "One tree: its index, or the beginning of its id");
  log->add_flag("--json", arguments->json, "One JSON object a tree");
  log->callback([arguments, &exit_code] {
    arguments->tree.empty() ? log_run(*arguments) : log_tree(*arguments);
    exit_code = common::kExitOk;
  });

  CLI::App* show = trace->add_subcommand("show", "Everything about one turn");
  show->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  show->add_option("node", arguments->node, "Beginning of a node's id, or TREE/PATH (3/r2/t5/b1)")
      ->required();
  show->add_flag("--tokens", arguments->tokens, "Log-prob and entropy of each token");
  show->add_flag("--json", arguments->json, "As JSON");
  show->callback([arguments, &exit_code] {
    show_node(*arguments);
    exit_code = common::kExitOk;
  });
  add_whole_run_commands(*trace, arguments, exit_code);
  add_trace_sandbox_commands(*trace, exit_code);
}

}  // namespace espalier::app
