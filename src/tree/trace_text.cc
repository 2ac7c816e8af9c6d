#include "tree/trace_text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

namespace espalier::tree {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";
constexpr const char *kBold = "1", *kDim = "2", *kRed = "31", *kGreen = "32", *kYellow = "33";

std::string paint(const TextOptions& options, const char* code, const std::string& text) {
  return options.colour ? std::string("\x1b[") + code + "m" + text + "\x1b[0m" : text;
}

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof buffer, pattern, args...);
  return buffer;
}

/// Length of the UTF-8 sequence at `at`; 0: none starts there.
size_t sequence_length(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  const size_t length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (length == 0 || lead > 0xf4 || at + length > text.size()) return 0;
  for (size_t i = 1; i < length; ++i)
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  const uint8_t second = length > 1 ? byte(at + 1) : 0;
  const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
  const bool surrogate = lead == 0xed && second >= 0xa0;
  const bool beyond = lead == 0xf4 && second >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

bool is_control(const std::string& text, size_t at, size_t length) {
  const uint8_t lead = static_cast<uint8_t>(text[at]);
  if (length == 1) return (lead < 0x20 && lead != '\n' && lead != '\t') || lead == 0x7f;
  return lead == 0xc2 && static_cast<uint8_t>(text[at + 1]) < 0xa0;  // C1
}

std::string reward_text(const Node& node, const TextOptions& options) {
  if (node.reward) {
    const std::string text = format("reward %.3g", *node.reward);
    return paint(options, *node.reward > 0 ? kGreen : kRed, text);
  }
  std::string text = node.outcome == Outcome::none ? "not over" : to_string(node.outcome);
  if (!node.failure.empty()) text += ": " + first_line(node.failure, 60);
  return paint(options, kYellow, text);
}

std::string advantage_text(const Node& node, const TextOptions& options) {
  if (node.weight == 0) return "     ·";
  const std::string text = format("%+6.3f", node.advantage);
  if (node.advantage == 0) return text;
  return paint(options, node.advantage > 0 ? kGreen : kRed, text);
}

/// Draws one tree; state of the walk.
class Drawing {
 public:
  Drawing(const RunTree& tree, const TextOptions& options)
      : tree_(tree.tree),
        options_(options),
        children_(tree.tree.children()),
        estimated_(tree.state == TreeState::stored) {}

  std::string draw() {
    siblings(tree_.roots(), "");
    return std::move(out_);
  }

 private:
  void siblings(const std::vector<int>& nodes, const std::string& indent) {
    for (size_t i = 0; i < nodes.size(); ++i) {
      const bool last = i + 1 == nodes.size();
      chain(nodes[i], indent + (last ? "└─ " : "├─ "), indent + (last ? "   " : "│  "));
    }
  }

  /// The turns from `node` down to the next fork or leaf, one below the other.
  void chain(int node, const std::string& first_indent, const std::string& indent) {
    std::string lead = first_indent;
    std::string label =
        (tree_.nodes[node].parent < 0 ? "r" : "b") + std::to_string(tree_.nodes[node].branch);
    for (;;) {
      line(node, lead, label);
      if (children_[node].size() != 1) break;
      node = children_[node].front();
      lead = indent;
      label.assign(label.size(), ' ');
    }
    siblings(children_[node], indent);
  }

  void line(int index, const std::string& lead, const std::string& label) {
    const Node& node = tree_.nodes[index];
    const size_t taken = lead.size() / 2 + label.size() + 24;
    const size_t room = std::max<size_t>(options_.width > taken ? options_.width - taken : 0, 24);
    const std::string command = first_line(node.command, room / 2);
    out_ += lead + label + " " + paint(options_, kDim, "t" + std::to_string(node.turn)) + "  ";
    if (estimated_) out_ += advantage_text(node, options_) + "  ";
    out_ += paint(options_, kBold, command.empty() ? "(no command)" : command);
    const std::string output = first_line(node.observation, room / 2);
    if (!output.empty()) out_ += " → " + output;
    if (node.exit_code != 0) out_ += paint(options_, kDim, format(" [exit %d]", node.exit_code));
    if (node.timed_out) out_ += paint(options_, kYellow, " [timed out]");
    if (node.command_state == CommandState::sent)
      out_ += paint(options_, kYellow, " [sent, never answered]");
    if (children_[index].size() > 1 && !node.fork_rule.empty())
      out_ += paint(options_, kDim, " ⑂ " + first_line(node.fork_rule, 40));
    if (children_[index].empty()) out_ += "  " + reward_text(node, options_);
    out_ += "\n";
  }

  const Tree& tree_;
  const TextOptions& options_;
  std::vector<std::vector<int>> children_;
  bool estimated_;
  std::string out_;
};

void field(std::string& out, const TextOptions& options, const char* name,
           const std::string& text) {
  out += paint(options, kDim, format("%-14s ", name)) + text + "\n";
}

/// A block of text below its heading, indented.
void block(std::string& out, const TextOptions& options, const char* name,
           const std::string& text) {
  out += paint(options, kDim, std::string(name) + ":") + "\n";
  const std::string safe = printable(text);
  for (size_t start = 0; start < safe.size();) {
    const size_t end = std::min(safe.find('\n', start), safe.size());
    out += "  " + safe.substr(start, end - start) + "\n";
    start = end + 1;
  }
  if (safe.empty()) out += "  (none)\n";
}

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (char c : printable(text)) out += c == '\n' ? "\\n" : c == '\t' ? "\\t" : std::string(1, c);
  return out + "'";
}

void token_table(std::string& out, const Node& node, const TextOptions& options) {
  out += paint(options, kDim, "      #      id   log-prob    entropy  mask  text") + "\n";
  for (size_t i = 0; i < node.action.size(); ++i) {
    const double log_prob = i < node.log_probs.size() ? node.log_probs[i] : std::nan("");
    const double entropy = i < node.entropies.size() ? node.entropies[i] : std::nan("");
    const int mask = i < node.loss_mask.size() ? node.loss_mask[i] : 0;
    out += format("  %5zu  %6d  %9.4f  %9.4f  %4d  ", i, node.action[i], log_prob, entropy, mask);
    if (options.token_text) out += quoted(options.token_text(node.action[i]));
    out += "\n";
  }
}

}  // namespace

std::string printable(const std::string& text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t length = sequence_length(text, at);
    if (length == 0 || is_control(text, at, length)) {
      out += kReplacement;
    } else {
      out.append(text, at, length);
    }
    at += std::max<size_t>(length, 1);
  }
  return out;
}

std::string first_line(const std::string& text, size_t width) {
  const size_t start = text.find_first_not_of("\r\n");
  if (start == std::string::npos) return "";
  std::string line = text.substr(start, text.find_first_of("\r\n", start) - start);
  std::replace(line.begin(), line.end(), '\t', ' ');
  line = printable(line);
  size_t characters = 0, cut = 0;
  for (size_t at = 0; at < line.size(); at += sequence_length(line, at)) {
    if (++characters == width) cut = at;
    if (characters > width) return line.substr(0, cut) + "…";
  }
  return line;
}

std::string summary_heading() {
  return "  tree    step  roots  forks  leaves  reward  task; outcomes\n";
}

std::string summary_line(const TreeSummary& summary, const TextOptions& options) {
  std::string out = format(
      "%6llu  %6llu  %5d  %5d  %6d  ", static_cast<unsigned long long>(summary.index),
      static_cast<unsigned long long>(summary.step), summary.roots, summary.forks, summary.leaves);
  const std::string reward = summary.mean_reward ? format("%6.3f", *summary.mean_reward) : "     –";
  const bool good = summary.mean_reward.value_or(0) > 0;
  out += paint(options, good ? kGreen : kRed, reward) + "  " + printable(summary.task) + ";";
  for (const auto& [outcome, count] : summary.outcomes)
    out += format(" %s %d", outcome == Outcome::none ? "not_over" : to_string(outcome), count);
  if (summary.state != TreeState::stored)
    out += paint(options, kYellow, std::string("  (") + to_string(summary.state) + ")");
  return out + "\n";
}

std::string draw_tree(const RunTree& run_tree, const TextOptions& options) {
  const TreeSummary summary = summarise(run_tree);
  std::string out = summary_heading() + summary_line(summary, options);
  out += paint(options, kBold, first_line(run_tree.tree.prompt, options.width)) + "\n";
  return out + Drawing(run_tree, options).draw();
}

std::string node_text(const RunTree& run_tree, int index, const TextOptions& options) {
  const Tree& tree = run_tree.tree;
  const Node& node = tree.nodes[index];
  std::string out;
  field(out, options, "node", node.id.hex());
  field(out, options, "parent", (node.parent < 0 ? tree.id : tree.nodes[node.parent].id).hex());
  field(out, options, "place",
        format("tree %llu, ", static_cast<unsigned long long>(tree.index)) + node.path +
            format(" (turn %d, branch %d)", node.turn, node.branch));
  field(out, options, "task", printable(tree.task));
  field(out, options, "policy",
        format("version %llu, sampling key %016llx",
               static_cast<unsigned long long>(node.policy_version),
               static_cast<unsigned long long>(node.sampling_key)));
  if (node.injected)
    field(out, options, "injected", "by the rule's external model: no sample, never trained on");
  field(out, options, "tokens",
        format("%zu of prompt, %zu sampled", node.prompt_delta.size(), node.action.size()));
  field(out, options, "entropy", format("%.4f nats before the first token", node.first_entropy));
  if (node.fork_origin != ForkOrigin::none)
    field(out, options, "forked",
          std::string("environment made by fork: ") + to_string(node.fork_origin));
  if (!node.fork_rule.empty())
    field(out, options, "branches", "below, by rule " + printable(node.fork_rule));
  if (!node.snapshot.empty()) field(out, options, "snapshot", printable(node.snapshot));
  if (run_tree.state == TreeState::stored)
    field(out, options, "estimate",
          format("value %.4f, advantage %+.4f, weight %.4f, S+ %.4f, S- %.4f", node.value,
                 node.advantage, node.weight, node.s_plus, node.s_minus));
  block(out, options, "command", node.command);
  if (node.command_state == CommandState::sent)
    out += paint(options, kYellow, "the command was sent and never answered") + "\n";
  block(out, options, "output", node.observation);
  field(out, options, "exit", format("%d%s", node.exit_code, node.timed_out ? " (timed out)" : ""));
  if (tree.is_leaf(index)) field(out, options, "end", reward_text(node, options));
  if (options.tokens) token_table(out, node, options);
  return out;
}

}  // namespace espalier::tree
