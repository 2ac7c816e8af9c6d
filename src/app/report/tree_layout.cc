#include "app/report/tree_layout.h"

#include <algorithm>
#include <sstream>

#include "app/report/text.h"

namespace espalier::app {
namespace {

constexpr size_t kPromptColumns = 20, kPromptLines = 8;
constexpr double kPromptLineHeight = 14;
constexpr double kRootGap = 8;  // more room between root episodes than within one

constexpr double kRewardRoom = 60, kFailureRoom = 132;

/// Longer episodes get narrower cards.
size_t card_columns(int depths) { return depths <= 6 ? 26 : depths <= 10 ? 20 : 14; }

/// Lines of an output behind each other, as far as they fit.
std::string one_line(std::string_view text, size_t columns) {
  std::string joined;
  for (char c : text.substr(0, 8 * columns)) {
    if (c != '\n') {
      joined += c;
    } else if (!joined.empty() && joined.back() != ' ') {
      joined += " \u21b5 ";
    }
  }
  constexpr std::string_view kBreak = " \u21b5 ";
  if (joined.ends_with(kBreak)) joined.erase(joined.size() - kBreak.size());
  return shorten(printable(joined), columns);
}

std::string output_line(const tree::Node& node, size_t columns) {
  const std::string line = one_line(node.observation, columns);
  if (node.timed_out) return shorten("timed out " + line, columns);
  if (node.exit_code != 0)
    return shorten("exit " + std::to_string(node.exit_code) + (line.empty() ? "" : ": ") + line,
                   columns);
  return line;
}

/// Breaks one line at spaces where there are any, else anywhere.
void wrap_line(std::string line, size_t columns, std::vector<std::string>& lines) {
  line.erase(line.find_last_not_of(' ') + 1);
  while (columns_of(line) > columns) {
    const size_t fits = shorten(line, columns + 1).size() - std::string_view("\u2026").size();
    const size_t space = line.rfind(' ', fits);
    const size_t end = space == std::string::npos || space == 0 ? fits : space;
    lines.push_back(line.substr(0, end));
    line.erase(0, line[end] == ' ' ? end + 1 : end);
  }
  lines.push_back(std::move(line));
}

std::vector<std::string> wrap(std::string_view text, size_t columns, size_t most_lines) {
  std::string rest = printable(text.substr(0, 4000));
  std::replace(rest.begin(), rest.end(), '\t', ' ');
  rest.erase(rest.find_last_not_of(" \n") + 1);
  std::vector<std::string> lines;
  std::istringstream source(rest);
  for (std::string line; lines.size() <= most_lines && std::getline(source, line);)
    wrap_line(std::move(line), columns, lines);
  if (lines.size() > most_lines) {
    lines.resize(most_lines);
    lines.back() = shorten(lines.back(), columns - 2) + " \u2026";
  }
  return lines;
}

void make_cards(const tree::Tree& tree, size_t count, TreeLayout& layout) {
  int depths = 0;
  for (size_t i = 0; i < count; ++i) {
    const int parent = tree.nodes[i].parent;
    Card card;
    card.depth = parent < 0 ? 0 : layout.cards[parent].depth + 1;
    depths = std::max(depths, card.depth + 1);
    (parent < 0 ? layout.roots : layout.cards[parent].children).push_back(static_cast<int>(i));
    layout.cards.push_back(card);
  }
  const size_t columns = card_columns(depths);
  for (size_t i = 0; i < count; ++i) {
    const tree::Node& node = tree.nodes[i];
    Card& card = layout.cards[i];
    if (card.children.empty()) card.badge_room = node.reward ? kRewardRoom : kFailureRoom;
    card.advantage = signed_number(node.advantage);
    card.command = shorten(printable(node.command), columns);
    card.output = output_line(node, columns - columns_of(card.advantage) - 2);
    const size_t needed =
        std::max({columns_of(card.command),
                  columns_of(card.output) + 2 + columns_of(card.advantage), size_t{8}});
    card.width = static_cast<double>(needed) * kCharWidth + 2 * kCardPad;
  }
}

void place_columns(TreeLayout& layout) {
  std::vector<double> widths, gaps;  // of a column; behind it
  for (const Card& card : layout.cards) {
    if (widths.size() <= static_cast<size_t>(card.depth)) {
      widths.push_back(0);
      gaps.push_back(kColumnGap);
    }
    widths[card.depth] = std::max(widths[card.depth], card.width);
    if (card.children.size() > 1) gaps[card.depth] = kForkGap;
  }
  std::vector<double> left = {kTreeLeft + layout.prompt_width + kForkGap};
  for (size_t d = 0; d < widths.size(); ++d) left.push_back(left[d] + widths[d] + gaps[d]);
  layout.width = left[0];
  for (Card& card : layout.cards) {
    card.x = left[card.depth];
    layout.width = std::max(layout.width, card.x + card.width + card.badge_room);
  }
}

void place_rows(TreeLayout& layout) {
  double next = kTreeTop + kCardHeight / 2;
  const int count = static_cast<int>(layout.cards.size());
  for (int i = 0; i < count; ++i) {
    Card& card = layout.cards[i];
    if (card.depth == 0 && i > 0) next += kRootGap;
    if (!card.children.empty()) continue;
    card.y = next;
    next += kRowPitch;
  }
  for (int i = count - 1; i >= 0; --i) {
    Card& card = layout.cards[i];
    if (card.children.empty()) continue;
    card.y = (layout.cards[card.children.front()].y + layout.cards[card.children.back()].y) / 2;
  }
  const double bottom = next - kRowPitch + kCardHeight / 2;
  layout.prompt_y =
      count == 0 ? next
                 : (layout.cards[layout.roots.front()].y + layout.cards[layout.roots.back()].y) / 2;
  layout.prompt_y = std::max(layout.prompt_y, kTreeTop + layout.prompt_height / 2);
  layout.height = std::max(bottom, layout.prompt_y + layout.prompt_height / 2) + kTreeBottom;
}

}  // namespace

TreeLayout lay_out(const tree::Tree& tree, size_t most_nodes) {
  TreeLayout layout;
  layout.prompt_lines = wrap(tree.prompt, kPromptColumns, kPromptLines);
  size_t columns = 6;
  for (const std::string& line : layout.prompt_lines) columns = std::max(columns, columns_of(line));
  layout.prompt_width = static_cast<double>(columns) * kCharWidth + 2 * kCardPad;
  layout.prompt_height = 26 + kPromptLineHeight * static_cast<double>(layout.prompt_lines.size());
  make_cards(tree, std::min(tree.nodes.size(), most_nodes), layout);
  place_columns(layout);
  place_rows(layout);
  return layout;
}

}  // namespace espalier::app
