#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "app/report/style.h"
#include "app/report/text.h"
#include "app/report/tree_layout.h"
#include "app/report/tree_view.h"

namespace espalier::app {
namespace {

constexpr double kTrunkOffset = 18;  // of the branching line behind the parent's card
constexpr double kCorner = 8;

struct Extremes {
  double advantage = 0, weight = 0;
};

Extremes extremes_of(const tree::Tree& tree) {
  Extremes most;
  for (const tree::Node& node : tree.nodes) {
    most.advantage = std::max(most.advantage, std::fabs(node.advantage));
    most.weight = std::max(most.weight, node.weight);
  }
  return most;
}

const char* sign_class(double advantage) {
  return advantage > 1e-9 ? "pos" : advantage < -1e-9 ? "neg" : "zero";
}

/// Everything one drawing needs to know while it is written.
struct Drawing {
  const tree::Tree& tree;
  const TreeSvgOptions& options;
  TreeLayout layout;
  Extremes most;
  std::string out;
};

double line_width(const Drawing& drawing, const tree::Node& node) {
  if (drawing.most.weight <= 0) return 2;
  return 1.5 + 4.5 * std::sqrt(std::max(0.0, node.weight) / drawing.most.weight);
}

void draw_straight(Drawing& drawing, double x, int child) {
  const Card& card = drawing.layout.cards[child];
  const tree::Node& node = drawing.tree.nodes[child];
  drawing.out +=
      fmt::format("<path class=\"branch {}\" stroke-width=\"{:.1f}\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>",
                  sign_class(node.advantage), line_width(drawing, node), x, card.y, card.x);
}

/// From a card's (or the prompt's) right edge to each of several children: along, up or down the
/// trunk, and in.
void draw_branches(Drawing& drawing, double x, double y, double trunk,
                   const std::vector<int>& children) {
  for (int child : children) {
    const double to = drawing.layout.cards[child].y;
    const double corner = std::min(kCorner, std::fabs(to - y) / 2);
    const double turn = to < y ? -corner : corner;
    drawing.out += fmt::format(
        "<path class=\"bark\" d=\"M{0:.1f} {1:.1f}H{2:.1f}Q{3:.1f} {1:.1f} {3:.1f} {4:.1f}"
        "V{5:.1f}Q{3:.1f} {6:.1f} {7:.1f} {6:.1f}\"/>",
        x, y, trunk - corner, trunk, y + turn, to - turn, to, trunk + kCorner);
  }
  for (int child : children) draw_straight(drawing, trunk + kCorner - 1, child);
}

void draw_fork_mark(Drawing& drawing, double trunk, double y, const tree::Node& node,
                    size_t branches) {
  drawing.out += fmt::format(
      "<g><title>fork into {} branches{}{}</title><path class=\"fork\" "
      "d=\"M{:.1f} {:.1f}l6 6l-6 6l-6 -6z\"/></g>",
      branches, node.fork_rule.empty() ? "" : " by ", html(node.fork_rule), trunk, y - 6);
}

std::string card_title(const tree::Node& node) {
  std::string tip =
      fmt::format("{}\n$ {}\n{}\nadvantage {}, weight {}", node.path,
                  head_and_tail(node.command, 400), head_and_tail(node.observation, 400),
                  signed_number(node.advantage, 3), plain_number(node.weight));
  return html(tip);
}

void draw_card(Drawing& drawing, size_t index) {
  const Card& card = drawing.layout.cards[index];
  const tree::Node& node = drawing.tree.nodes[index];
  const char* sign = sign_class(node.advantage);
  const double share =
      drawing.most.advantage > 0 ? std::fabs(node.advantage) / drawing.most.advantage : 0;
  const double top = card.y - kCardHeight / 2;
  const bool linked = !drawing.options.anchor.empty();
  std::string& out = drawing.out;
  if (linked) out += fmt::format("<a href=\"#{}-{}\">", html(drawing.options.anchor), index);
  out += fmt::format(
      "<g class=\"card\"><title>{0}</title><rect class=\"face\" x=\"{1:.1f}\" y=\"{2:.1f}\" "
      "width=\"{3:.1f}\" "
      "height=\"{4}\" rx=\"6\"/><rect class=\"tint {5}\" x=\"{1:.1f}\" y=\"{2:.1f}\" "
      "width=\"{3:.1f}\" height=\"{4}\" "
      "rx=\"6\" fill-opacity=\"{6:.2f}\"/>",
      card_title(node), card.x, top, card.width, kCardHeight, sign,
      share > 0 ? 0.06 + 0.2 * share : 0);
  out += fmt::format(
      "<text class=\"command\" x=\"{0:.1f}\" y=\"{1:.1f}\">{2}</text>"
      "<text class=\"output\" x=\"{0:.1f}\" y=\"{3:.1f}\">{4}</text>",
      card.x + kCardPad, top + 14.5, html(card.command), top + 29, html(card.output));
  out += fmt::format(
      "<text class=\"adv {}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text></g>", sign,
      card.x + card.width - kCardPad, top + 29, html(card.advantage));
  if (linked) out += "</a>";
}

void draw_badge(Drawing& drawing, size_t index) {
  const Card& card = drawing.layout.cards[index];
  const tree::Node& node = drawing.tree.nodes[index];
  const double x = card.x + card.width + 26;
  const std::string text = reward_text(node);
  const char* kind = !node.reward ? "failed" : *node.reward > 0 ? "pos" : "neg";
  std::string& out = drawing.out;
  out += fmt::format("<path class=\"bark\" d=\"M{:.1f} {:.1f}h14\"/>", card.x + card.width, card.y);
  if (!node.reward) {
    const std::string words = node.outcome == tree::Outcome::none ? "open" : text;
    out += fmt::format(
        "<g><title>{}</title><circle class=\"badge failed\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"6\"/>"
        "<text class=\"tick\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text></g>",
        html(text + " " + head_and_tail(node.failure, 300)), x - 6, card.y, x + 4, card.y + 3.5,
        html(shorten(words, 16)));
    return;
  }
  out += fmt::format(
      "<g><title>reward {0}</title><rect class=\"badge {1}\" x=\"{2:.1f}\" y=\"{3:.1f}\" "
      "width=\"{4:.1f}\" "
      "height=\"22\" rx=\"11\"/><text class=\"reward {1}\" x=\"{5:.1f}\" y=\"{6:.1f}\" "
      "text-anchor=\"middle\">{0}</text></g>",
      html(text), kind, x - 12, card.y - 11, 18 + 6.5 * double(columns_of(text)),
      x - 3 + 3.25 * double(columns_of(text)), card.y + 4);
}

void draw_prompt(Drawing& drawing) {
  const TreeLayout& layout = drawing.layout;
  const double top = layout.prompt_y - layout.prompt_height / 2;
  std::string& out = drawing.out;
  out += fmt::format(
      "<rect class=\"prompt\" x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"6\"/>"
      "<text class=\"tick\" x=\"{}\" y=\"{:.1f}\">prompt</text>",
      kTreeLeft, top, layout.prompt_width, layout.prompt_height, kTreeLeft + kCardPad, top + 15);
  double y = top + 31;
  for (const std::string& line : layout.prompt_lines) {
    out += fmt::format("<text class=\"command\" x=\"{}\" y=\"{:.1f}\">{}</text>",
                       kTreeLeft + kCardPad, y, html(line));
    y += 14;
  }
}

void draw_key(Drawing& drawing) {
  const double y = drawing.layout.height - 14;
  drawing.out += fmt::format(
      "<g transform=\"translate({:.0f} {:.0f})\"><rect class=\"tint pos\" fill-opacity=\".55\" "
      "x=\"0\" y=\"-9\" width=\"16\" "
      "height=\"11\" rx=\"3\"/><text class=\"tick\" x=\"22\" y=\"0\">advantage &gt; 0</text>"
      "<rect class=\"tint neg\" fill-opacity=\".55\" x=\"118\" y=\"-9\" width=\"16\" height=\"11\" "
      "rx=\"3\"/>"
      "<text class=\"tick\" x=\"140\" y=\"0\">&lt; 0</text><path class=\"bark\" "
      "style=\"stroke-width:5\" d=\"M184 -4h20\"/>"
      "<text class=\"tick\" x=\"210\" y=\"0\">thickness: weight</text><path class=\"fork\" "
      "d=\"M330 -10l6 6l-6 6l-6 -6z\"/>"
      "<text class=\"tick\" x=\"342\" y=\"0\">fork</text><rect class=\"badge pos\" x=\"382\" "
      "y=\"-10\" width=\"18\" height=\"13\" "
      "rx=\"6.5\"/><text class=\"tick\" x=\"406\" y=\"0\">reward of the episode</text></g>",
      kTreeLeft, y);
}

void draw_all_branches(Drawing& drawing) {
  const TreeLayout& layout = drawing.layout;
  const double prompt_right = kTreeLeft + layout.prompt_width;
  draw_branches(drawing, prompt_right, layout.prompt_y, prompt_right + kTrunkOffset, layout.roots);
  for (size_t i = 0; i < layout.cards.size(); ++i) {
    const Card& card = layout.cards[i];
    const double right = card.x + card.width;
    if (card.children.size() == 1) draw_straight(drawing, right, card.children.front());
    if (card.children.size() < 2) continue;
    // The trunk stands where the children's column begins, so that trunks of a column line up.
    const double trunk = layout.cards[card.children.front()].x - kForkGap + kTrunkOffset;
    draw_branches(drawing, right, card.y, trunk, card.children);
    draw_fork_mark(drawing, trunk, card.y, drawing.tree.nodes[i], card.children.size());
  }
}

}  // namespace

std::string reward_text(const tree::Node& leaf) {
  return leaf.reward ? plain_number(*leaf.reward) : tree::to_string(leaf.outcome);
}

std::string tree_svg(const tree::Tree& tree, const TreeSvgOptions& options) {
  Drawing drawing{tree, options, lay_out(tree, kMostTurnsShown), extremes_of(tree), {}};
  const double width = std::max(drawing.layout.width, 560.0), height = drawing.layout.height;
  const std::string label = "Tree of " + tree_facts(tree);
  drawing.out = fmt::format(
      "<svg class=\"tree\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "style=\"min-width:{2:.0f}px\" role=\"{3}\" aria-label=\"{4}\"{5}>",
      width, height, 0.8 * width, options.anchor.empty() ? "img" : "group", html(label),
      options.standalone ? " xmlns=\"http://www.w3.org/2000/svg\"" : "");
  if (options.standalone)
    drawing.out +=
        fmt::format("<style>{}{}</style><rect class=\"paper\" width=\"100%\" height=\"100%\"/>",
                    kThemeCss, kTreeCss);
  drawing.out += fmt::format("<text class=\"heading\" x=\"{}\" y=\"18\">{}</text>", kTreeLeft,
                             html(shorten(printable(tree_facts(tree)), size_t(width / 6.6))));
  draw_all_branches(drawing);
  draw_prompt(drawing);
  for (size_t i = 0; i < drawing.layout.cards.size(); ++i) draw_card(drawing, i);
  for (size_t i = 0; i < drawing.layout.cards.size(); ++i)
    if (tree.is_leaf(static_cast<int>(i))) draw_badge(drawing, i);
  draw_key(drawing);
  return drawing.out + "</svg>\n";
}

}  // namespace espalier::app
