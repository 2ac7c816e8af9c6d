#include "tree/trace_diff.h"

namespace espalier::tree {
namespace {

std::string name_of(const FoundNode& node, int index) {
  return std::to_string(node.found.tree.index) + "/" + node.found.tree.nodes[index].path;
}

Json turns_json(const FoundNode& node, const std::vector<int>& turns) {
  Json json = Json::array();
  for (int turn : turns) json.push_back(node_json(node.found, turn, false));
  return json;
}

std::string marked(const std::string& text, const std::string& mark) {
  const std::string safe = printable(text);
  std::string out;
  for (size_t start = 0; start < safe.size();) {
    const size_t end = std::min(safe.find('\n', start), safe.size());
    out += mark + safe.substr(start, end - start) + "\n";
    start = end + 1;
  }
  return out;
}

std::string side_text(const FoundNode& node, const std::vector<int>& turns, const char* sign,
                      const TextOptions& options) {
  const char* colour = !options.colour ? "" : sign[0] == '-' ? "\x1b[31m" : "\x1b[32m";
  const char* plain = options.colour ? "\x1b[0m" : "";
  std::string out =
      colour + std::string(sign) + sign + sign + " " + name_of(node, node.node) + plain + "\n";
  for (int index : turns) {
    const Node& turn = node.found.tree.nodes[index];
    out += colour + std::string(sign) + " " + turn.path + "  $ " +
           first_line(turn.command, options.width) + plain;
    if (turn.exit_code != 0) out += "  [exit " + std::to_string(turn.exit_code) + "]";
    out += "\n" + marked(turn.observation, std::string(sign) + "     ");
    if (turn.outcome == Outcome::none) continue;
    out += std::string(sign) + "   = " + to_string(turn.outcome);
    if (turn.reward) out += " " + std::to_string(*turn.reward);
    out += "\n";
  }
  if (turns.empty()) out += std::string(sign) + " (nothing of its own)\n";
  return out;
}

}  // namespace

TraceDiff diff_nodes(const FoundNode& a, const FoundNode& b) {
  TraceDiff diff;
  diff.a = path_to(a.found.tree, a.node);
  diff.b = path_to(b.found.tree, b.node);
  diff.same_tree = a.found.tree.id == b.found.tree.id;
  if (!diff.same_tree) return diff;
  size_t common = 0;
  while (common < diff.a.size() && common < diff.b.size() &&
         a.found.tree.nodes[diff.a[common]].id == b.found.tree.nodes[diff.b[common]].id)
    ++common;
  if (common > 0) diff.ancestor = diff.a[common - 1];
  const auto drop = static_cast<ptrdiff_t>(common);
  diff.a.erase(diff.a.begin(), diff.a.begin() + drop);
  diff.b.erase(diff.b.begin(), diff.b.begin() + drop);
  return diff;
}

Json diff_json(const FoundNode& a, const FoundNode& b) {
  const TraceDiff diff = diff_nodes(a, b);
  Json json{{"a", name_of(a, a.node)}, {"b", name_of(b, b.node)}, {"same_tree", diff.same_tree}};
  json["ancestor"] = diff.ancestor < 0 ? Json(nullptr) : node_json(a.found, diff.ancestor, false);
  json["only_a"] = turns_json(a, diff.a);
  json["only_b"] = turns_json(b, diff.b);
  return json;
}

std::string diff_text(const FoundNode& a, const FoundNode& b, const TextOptions& options) {
  const TraceDiff diff = diff_nodes(a, b);
  std::string out = "common ancestor: ";
  if (diff.ancestor >= 0) {
    const Node& node = a.found.tree.nodes[diff.ancestor];
    out += name_of(a, diff.ancestor) + " (" + node.id.hex() + ")  $ " +
           first_line(node.command, options.width);
  } else {
    out += diff.same_tree ? "the prompt" : "none: two trees";
  }
  return out + "\n" + side_text(a, diff.a, "-", options) + side_text(b, diff.b, "+", options);
}

}  // namespace espalier::tree
