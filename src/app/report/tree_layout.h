// Where the cards of a drawn tree stand.
#pragma once

#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::app {

struct Card {
  std::string command, output, advantage;  // printable, cut to fit
  double x = 0, y = 0, width = 0;          // left edge, centre line
  double badge_room = 0;                   // right of a leaf
  int depth = 0;
  std::vector<int> children;
};

struct TreeLayout {
  std::vector<Card> cards;  // of the first nodes, depth first
  std::vector<int> roots;
  std::vector<std::string> prompt_lines;
  double prompt_y = 0, prompt_width = 0, prompt_height = 0;
  double width = 0, height = 0;
};

inline constexpr double kCharWidth = 6.7;  // of the 11 px monospace text in cards
inline constexpr double kCardHeight = 36, kRowPitch = 46, kColumnGap = 22, kForkGap = 46,
                        kBadgeRoom = 96;
inline constexpr double kTreeTop = 40, kTreeBottom = 52, kTreeLeft = 8, kCardPad = 9;

/// Rows by leaf, inner turns centred on their children, columns as wide as their widest card: no
/// two cards overlap. Lays out the first `most_nodes` nodes (depth first, so parents come along).
TreeLayout lay_out(const tree::Tree& tree, size_t most_nodes);

}  // namespace espalier::app
