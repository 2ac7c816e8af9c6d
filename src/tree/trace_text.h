// A run's trees as text for people.
#pragma once

#include <functional>
#include <string>

#include "tree/run_trees.h"

namespace espalier::tree {

struct TextOptions {
  bool colour = false;  // ANSI colours
  size_t width = 100;   // commands and outputs are cut so that lines of a drawing mostly fit
  bool tokens = false;  // a node's tokens one by one
  std::function<std::string(Token)> token_text;  // of one token; empty: ids only
};

/// One line: index, step, task, roots, forks, leaves, mean reward, outcomes.
std::string summary_line(const TreeSummary& summary, const TextOptions& options);
/// Column heads of summary_line.
std::string summary_heading();

/// The tree with box characters: a chain of turns keeps its indent, a fork's children go one
/// deeper. Each turn: label, advantage, command, first line of output; leaves: reward or failure.
std::string draw_tree(const RunTree& tree, const TextOptions& options);

/// Everything about one turn.
std::string node_text(const RunTree& tree, int node, const TextOptions& options);

/// What a terminal may be given: control characters (newline and tab apart) and bytes that are no
/// UTF-8 become U+FFFD, so that recorded output cannot command the reader's terminal.
std::string printable(const std::string& text);
/// printable() of the first line that is not empty, cut to `width` characters with "…".
std::string first_line(const std::string& text, size_t width);

}  // namespace espalier::tree
