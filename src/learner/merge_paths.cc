#include "learner/merge_paths.h"

#include <algorithm>
#include <set>

namespace espalier::learner {
namespace {

constexpr int64_t kLeastShared = 16;

/// One micro-batch under construction. Paths come sorted, so its layout is depth first.
class Merger {
 public:
  int64_t tokens() const { return static_cast<int64_t>(packed_.tokens.size()); }

  /// Tokens of the path that the one before has, too.
  int64_t shared(const Packed& path) const {
    const size_t most = std::min(path.tokens.size(), slots_.size());
    size_t length = 0;
    while (length < most &&
           packed_.tokens[static_cast<size_t>(slots_[length])] == path.tokens[length])
      ++length;
    return static_cast<int64_t>(length) / kLeastShared * kLeastShared;
  }

  void add(const Packed& path) {
    const int64_t begin = shared(path), length = static_cast<int64_t>(path.tokens.size());
    slots_.resize(static_cast<size_t>(begin));
    if (begin < length) {
      runs_.push_back({tokens(), begin > 0 ? slots_.back() : -1});
      cuts_.insert(tokens());
      cuts_.insert(runs_.back().behind + 1);
    }
    for (int64_t i = begin; i < length; ++i) {
      slots_.push_back(tokens());
      packed_.tokens.push_back(path.tokens[static_cast<size_t>(i)]);
      packed_.positions.push_back(i);
      edge_to_.push_back(-1);
    }
    for (size_t e = 0; e < path.edges.size(); ++e) add_edge(path.edges, e);
  }

  Packed finish() {
    std::vector<int> parents;
    for (auto cut = cuts_.begin(); cut != cuts_.end() && *cut < tokens(); ++cut) {
      const auto next = std::next(cut);
      const int64_t end = next == cuts_.end() ? tokens() : *next;
      const int parent = segment_before(*cut);
      const int level = parent < 0 ? 0 : packed_.segments[static_cast<size_t>(parent)].level + 1;
      packed_.segments.push_back({*cut, end, end, level});
      parents.push_back(parent);
    }
    for (size_t i = parents.size(); i-- > 0;) {
      if (parents[i] < 0) continue;
      Segment& parent = packed_.segments[static_cast<size_t>(parents[i])];
      parent.subtree_end = std::max(parent.subtree_end, packed_.segments[i].subtree_end);
    }
    return std::move(packed_);
  }

 private:
  struct Run {
    int64_t begin = 0;
    int64_t behind = -1;  // the token it continues; −1: none
  };

  void add_edge(const Edges& edges, size_t e) {
    const int64_t state = slots_[static_cast<size_t>(edges.state[e])],
                  target = slots_[static_cast<size_t>(edges.target[e])];
    Edges& all = packed_.edges;
    int64_t& known = edge_to_[static_cast<size_t>(target)];
    if (known >= 0) {
      all.share[static_cast<size_t>(known)] += edges.share[e];
      all.weight[static_cast<size_t>(known)] += edges.weight[e];
      return;
    }
    known = static_cast<int64_t>(all.size());
    all.state.push_back(state);
    all.target.push_back(target);
    all.rollout_log_prob.push_back(edges.rollout_log_prob[e]);
    all.s_plus.push_back(edges.s_plus[e]);
    all.s_minus.push_back(edges.s_minus[e]);
    all.share.push_back(edges.share[e]);
    all.weight.push_back(edges.weight[e]);
    all.inverse_length.push_back(edges.inverse_length[e]);
    all.tree.push_back(edges.tree[e]);
  }

  /// The segment that ends before the token at `cut` on its path; −1: none.
  int segment_before(int64_t cut) const {
    const auto run = std::lower_bound(runs_.begin(), runs_.end(), cut,
                                      [](const Run& r, int64_t at) { return r.begin < at; });
    const int64_t last = run != runs_.end() && run->begin == cut ? run->behind : cut - 1;
    if (last < 0) return -1;
    const auto& segments = packed_.segments;
    const auto found = std::upper_bound(segments.begin(), segments.end(), last,
                                        [](int64_t at, const Segment& s) { return at < s.end; });
    return static_cast<int>(found - segments.begin());
  }

  Packed packed_;
  std::vector<int64_t> slots_;    // of the last path's tokens
  std::vector<int64_t> edge_to_;  // per token: the edge that predicts it; −1: none
  std::vector<Run> runs_;
  std::set<int64_t> cuts_;  // where segments begin
};

}  // namespace

std::vector<Packed> pack_merged(const std::vector<const tree::Tree*>& trees,
                                const PackOptions& options) {
  PackOptions one_by_one = options;
  one_by_one.packing = Packing::linear;
  one_by_one.max_tokens = 1;
  std::vector<Packed> paths = pack(trees, one_by_one);
  std::stable_sort(paths.begin(), paths.end(),
                   [](const Packed& a, const Packed& b) { return a.tokens < b.tokens; });
  std::vector<Packed> batches;
  Merger merger;
  for (const Packed& path : paths) {
    const int64_t fresh = static_cast<int64_t>(path.tokens.size()) - merger.shared(path);
    if (merger.tokens() > 0 && merger.tokens() + fresh > options.max_tokens) {
      batches.push_back(merger.finish());
      merger = Merger();
    }
    merger.add(path);
  }
  if (merger.tokens() > 0) batches.push_back(merger.finish());
  return batches;
}

}  // namespace espalier::learner
