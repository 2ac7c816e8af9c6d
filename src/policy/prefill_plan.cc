#include "policy/prefill_plan.h"

#include <algorithm>
#include <unordered_map>

namespace espalier::policy {
namespace {

constexpr size_t kNone = static_cast<size_t>(-1);

/// A span with uncomputed tokens.
struct Node {
  const Context* span;
  size_t owner;
  size_t parent;        // nearest span above it with uncomputed tokens, or kNone
  size_t begin, end;    // uncomputed positions
  size_t children = 0;  // spans below it with uncomputed tokens
  size_t wave = 0;
  size_t segment = 0;  // index within its wave
};

class Planner {
 public:
  Planner(const std::vector<const Context*>& contexts, const Coverage& coverage)
      : contexts_(contexts), coverage_(coverage) {}

  PrefillPlan plan() {
    for (const Context* context : contexts_) paths_.push_back(spans_of(*context));
    for (size_t i = 0; i < contexts_.size(); ++i) collect_needs(i);
    for (size_t i = 0; i < contexts_.size(); ++i) collect_nodes(i);
    for (Node& node : nodes_) place(node);
    return std::move(plan_);
  }

 private:
  size_t target(size_t request) const { return contexts_[request]->length() - 1; }

  void collect_needs(size_t request) {
    for (const Context* span : paths_[request]) {
      size_t& need = need_[span];
      need = std::max(need, std::min(span->length(), target(request)));
    }
  }

  void collect_nodes(size_t request) {
    size_t parent = kNone, covered = target(request), computed = 0;
    for (const Context* span : paths_[request]) {
      const size_t end = need_.at(span);
      // Below a gap nothing counts as computed, so that a segment is always one run of positions.
      const size_t begin = span_begin(*span) + (parent == kNone ? coverage_(*span) : 0);
      if (begin >= end) continue;
      if (parent == kNone) covered = std::min(covered, begin);
      auto [it, inserted] = index_.try_emplace(span, nodes_.size());
      if (inserted) {
        nodes_.push_back({span, request, parent, begin, end});
        if (parent != kNone) ++nodes_[parent].children;
        computed += end - begin;
      }
      parent = it->second;
    }
    plan_.covered.push_back(covered);
    plan_.computed.push_back(computed);
  }

  /// Parents come before their children in nodes_.
  void place(Node& node) {
    if (node.parent != kNone && nodes_[node.parent].children == 1) {
      const Node& parent = nodes_[node.parent];
      node.wave = parent.wave;
      node.segment = parent.segment;
    } else {
      node.wave = node.parent == kNone ? 0 : nodes_[node.parent].wave + 1;
      if (node.wave == plan_.waves.size()) plan_.waves.emplace_back();
      node.segment = plan_.waves[node.wave].size();
      plan_.waves[node.wave].push_back({{}, node.begin, node.begin, node.owner});
    }
    PrefillSegment& segment = plan_.waves[node.wave][node.segment];
    segment.spans.push_back(node.span);
    segment.end = node.end;
  }

  const std::vector<const Context*>& contexts_;
  const Coverage& coverage_;
  std::vector<std::vector<const Context*>> paths_;
  std::unordered_map<const Context*, size_t> need_;  // looked up only: its order decides nothing
  std::unordered_map<const Context*, size_t> index_;
  std::vector<Node> nodes_;
  PrefillPlan plan_;
};

}  // namespace

std::vector<const Context*> spans_of(const Context& context) {
  std::vector<const Context*> spans;
  for (const Context* span = &context; span; span = span->parent().get()) {
    if (!span->tokens().empty()) spans.push_back(span);
  }
  std::reverse(spans.begin(), spans.end());
  return spans;
}

PrefillPlan plan_prefill(const std::vector<const Context*>& contexts, const Coverage& coverage) {
  return Planner(contexts, coverage).plan();
}

}  // namespace espalier::policy
