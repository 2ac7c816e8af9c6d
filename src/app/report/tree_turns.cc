#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "app/report/text.h"
#include "app/report/tree_view.h"

namespace espalier::app {
namespace {

constexpr size_t kMostOutputBytes = 8000;  // of one turn's output on the page

const char* sign_class(double value) {
  return value > 1e-9 ? "pos" : value < -1e-9 ? "neg" : "zero";
}

double mean(const std::vector<float>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::string fact(const char* name, const std::string& value) {
  return fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", name, html(value));
}

std::string turn_facts(const tree::Node& node, bool leaf) {
  std::string out = "<dl class=\"facts\">";
  if (leaf) out += fact("reward", reward_text(node));
  if (!node.failure.empty()) out += fact("failure", head_and_tail(node.failure, 1000));
  out += fact("advantage A", signed_number(node.advantage, 4));
  out += fact("value V", plain_number(node.value));
  out += fact("weight \u03c9", plain_number(node.weight));
  out += fact("S\u207a / S\u207b",
              signed_number(node.s_plus, 4) + " / " + signed_number(node.s_minus, 4));
  out += fact("\u03a3 log-prob",
              plain_number(std::accumulate(node.log_probs.begin(), node.log_probs.end(), 0.0)));
  out += fact("mean entropy", plain_number(mean(node.entropies)) + " nats");
  out += fact("entropy before the turn", plain_number(node.first_entropy) + " nats");
  out += fact("action tokens", std::to_string(node.action.size()));
  if (node.injected) out += fact("injected", "by an external model; never trained on");
  out += fact("exit code", std::to_string(node.exit_code) + (node.timed_out ? ", timed out" : ""));
  if (!node.fork_rule.empty()) out += fact("forked below by", node.fork_rule);
  if (node.fork_origin != tree::ForkOrigin::none)
    out += fact("fork made", tree::to_string(node.fork_origin));
  out += fact("policy version", std::to_string(node.policy_version));
  out += fact("node", node.id.hex());
  return out + "</dl>";
}

std::string turn(const tree::Node& node, const std::string& id, bool leaf, int depth) {
  const char* sign = sign_class(node.advantage);
  std::string out = fmt::format(
      "<details class=\"turn\" id=\"{}\" style=\"--depth:{}\"><summary><span "
      "class=\"path\">{}</span> "
      "<code>{}</code> <span class=\"num {}\">A {}</span>",
      html(id), std::min(depth, 12), html(node.path), html(shorten(printable(node.command), 90)),
      sign, signed_number(node.advantage));
  if (leaf)
    out += fmt::format(" <span class=\"chip {}\">{}</span>",
                       !node.reward       ? "failed"
                       : *node.reward > 0 ? "pos"
                                          : "neg",
                       html((node.reward ? "reward " : "") + reward_text(node)));
  out += "</summary>";
  out += fmt::format("<pre class=\"command\">$ {}</pre>",
                     html(head_and_tail(node.command, kMostOutputBytes)));
  if (node.observation.empty())
    out += "<p class=\"quiet\">No output.</p>";
  else
    out += fmt::format("<pre>{}</pre>", html(head_and_tail(node.observation, kMostOutputBytes)));
  return out + turn_facts(node, leaf) + "</details>\n";
}

struct Forks {
  size_t all = 0, mixed = 0;
};

/// A fork is mixed when the mean rewards below its branches differ.
Forks count_forks(const tree::Tree& tree) {
  std::vector<std::pair<double, int>> below(tree.nodes.size());
  for (int i = static_cast<int>(tree.nodes.size()) - 1; i >= 0; --i) {
    const tree::Node& node = tree.nodes[i];
    if (node.reward) below[i].first += *node.reward, ++below[i].second;
    if (node.parent < 0) continue;
    below[node.parent].first += below[i].first;
    below[node.parent].second += below[i].second;
  }
  Forks forks;
  for (const auto& children : tree.children()) {
    if (children.size() < 2) continue;
    ++forks.all;
    std::set<double> means;
    for (int child : children)
      if (below[child].second > 0) means.insert(below[child].first / below[child].second);
    if (means.size() > 1) ++forks.mixed;
  }
  return forks;
}

}  // namespace

std::string tree_turns(const tree::Tree& tree, const std::string& anchor) {
  std::string out = "<div class=\"turns\">";
  const size_t shown = std::min(tree.nodes.size(), kMostTurnsShown);
  std::vector<bool> inner(tree.nodes.size(), false);
  std::vector<int> depth(tree.nodes.size(), 0);
  for (const tree::Node& node : tree.nodes)
    if (node.parent >= 0) inner[node.parent] = true;
  for (size_t i = 0; i < shown; ++i) {
    const tree::Node& node = tree.nodes[i];
    if (node.parent >= 0) depth[i] = depth[node.parent] + 1;
    out += turn(node, fmt::format("{}-{}", anchor, i), !inner[i], depth[i]);
  }
  if (shown < tree.nodes.size())
    out += fmt::format(
        "<p class=\"quiet\">The first {} of {} turns; <code>espalier trace show</code> has the "
        "rest.</p>",
        shown, tree.nodes.size());
  return out + "</div>\n";
}

std::string tree_facts(const tree::Tree& tree) {
  const Forks forks = count_forks(tree);
  double sum = 0;
  size_t rewarded = 0, leaves = 0;
  for (int leaf : tree.leaves()) {
    ++leaves;
    if (tree.nodes[leaf].reward) sum += *tree.nodes[leaf].reward, ++rewarded;
  }
  const auto counted = [](size_t count, const char* thing) {
    return fmt::format("{} {}{}", count, thing, count == 1 ? "" : "s");
  };
  std::string facts = fmt::format("{}, step {}: {}, {}", tree.task, tree.step,
                                  counted(tree.roots().size(), "root"), counted(forks.all, "fork"));
  if (forks.all > 0) facts += fmt::format(" ({} mixed)", forks.mixed);
  facts += ", " + counted(leaves, "episode");
  if (rewarded > 0)
    facts += ", mean reward " +
             plain_number(std::round(sum / static_cast<double>(rewarded) * 1000) / 1000);
  return facts;
}

}  // namespace espalier::app
