// espalier trace: a run's trees, looked at.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>

#include "app/commands.h"
#include "app/run_directory.h"
#include "common/error.h"
#include "policy/tokenizer.h"
#include "tree/run_trees.h"
#include "tree/trace_json.h"
#include "tree/trace_text.h"

namespace espalier::app {
namespace {

namespace fs = std::filesystem;

struct TraceArguments {
  std::string run;
  std::optional<uint64_t> tree;
  std::string node;
  bool json = false;
  bool tokens = false;
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

tree::TextOptions text_options() {
  const char* no_colour = std::getenv("NO_COLOR");
  tree::TextOptions options;
  options.colour = ::isatty(STDOUT_FILENO) && !(no_colour && *no_colour);
  if (const char* columns = std::getenv("COLUMNS"))
    options.width = static_cast<size_t>(std::clamp(std::atoi(columns), 60, 400));
  return options;
}

/// The tokenizer saved with the run's newest checkpoint; null: there is none that loads.
policy::TokenizerPtr find_tokenizer(const fs::path& run) {
  fs::path newest;
  std::error_code error;
  for (fs::recursive_directory_iterator it(RunDirectory{run}.checkpoints(), error), end;
       !error && it != end; it.increment(error))
    if (it->path().filename() == "tokenizer.json" && it->path() > newest) newest = it->path();
  if (newest.empty()) return nullptr;
  try {
    return policy::Tokenizer::load(newest);
  } catch (const common::PolicyError& refused) {
    std::fprintf(stderr, "espalier: warning: tokens are shown as ids only: %s\n", refused.what());
    return nullptr;
  }
}

void log_run(const TraceArguments& arguments) {
  const tree::TextOptions options = text_options();
  bool any = false;
  tree::visit_trees(arguments.run, [&](tree::RunTree&& tree) {
    const tree::TreeSummary summary = tree::summarise(tree);
    if (!any && !arguments.json) print(tree::summary_heading());
    any = true;
    print(arguments.json ? tree::dump(tree::to_json(summary)) + "\n"
                         : tree::summary_line(summary, options));
    return true;
  });
  if (!any && !arguments.json) print("no trees yet in " + arguments.run + "\n");
}

void log_tree(const TraceArguments& arguments) {
  const tree::RunTree found = tree::find_tree(arguments.run, *arguments.tree);
  print(arguments.json ? tree::dump(tree::tree_json(found)) + "\n"
                       : tree::draw_tree(found, text_options()));
}

void show_node(const TraceArguments& arguments) {
  const tree::FoundNode node = tree::find_node(arguments.run, arguments.node);
  if (arguments.json) {
    print(tree::dump(tree::node_json(node.found, node.node, arguments.tokens), 2) + "\n");
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
  print(tree::node_text(node.found, node.node, options));
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
      "  espalier trace show runs/quickstart 9f3a --tokens");

  CLI::App* log = trace->add_subcommand("log", "One line a tree; with --tree: the tree drawn");
  log->add_option("run", arguments->run, "Run directory (runs/NAME)")->required();
  log->add_option("--tree", arguments->tree, "Index of one tree");
  log->add_flag("--json", arguments->json, "One JSON object a tree");
  log->callback([arguments, &exit_code] {
    arguments->tree ? log_tree(*arguments) : log_run(*arguments);
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
}

}  // namespace espalier::app
