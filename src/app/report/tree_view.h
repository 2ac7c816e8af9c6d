// A trace tree as a drawing (the espalier: prompt at the left, turns along its branches) and as
// text.
#pragma once

#include <string>

#include "tree/trace_tree.h"

namespace espalier::app {

struct TreeSvgOptions {
  std::string anchor;       // turns link to "#<anchor>-<node>"; empty: no links
  bool standalone = false;  // a file of its own: XML namespace and style sheet inside
};

/// Most turns drawn or listed of one tree; the rest is counted in words.
inline constexpr size_t kMostTurnsShown = 400;

/// Columns are turns, rows are leaves. A card shows a turn's command, the start of its output and
/// its advantage (the card's tint: sign and relative size); the line that leads to it is as thick
/// as its weight; the badge behind a leaf is its reward or typed failure.
std::string tree_svg(const tree::Tree& tree, const TreeSvgOptions& options);

/// Every turn in depth-first order as a <details> element: summary with command and numbers; inside
/// the whole output, log-probability, entropy, value, weight, S⁺, S⁻ and ids. Ids are
/// "<anchor>-<node>".
std::string tree_turns(const tree::Tree& tree, const std::string& anchor);

/// A tree's facts in one line: task, step, roots, forks (mixed ones), leaves, mean reward.
std::string tree_facts(const tree::Tree& tree);

/// "1", "0.25", or the failure's name.
std::string reward_text(const tree::Node& leaf);

}  // namespace espalier::app
