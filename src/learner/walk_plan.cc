#include "learner/walk_plan.h"

#include <algorithm>

namespace espalier::learner {
namespace {

class Planner {
 public:
  Planner(const std::vector<Segment>& segments, int64_t max_tokens)
      : segments_(segments), max_tokens_(max_tokens) {}

  /// Plans segments [first, end), siblings and all that lies below them, behind `above` tokens.
  void plan(size_t first, size_t end, int64_t above, int parent) {
    size_t pending = first;  // siblings [pending, at) fit together
    for (size_t at = first; at < end;) {
      const size_t next = behind(at, end);
      const bool fits = above + tokens(pending, next) <= max_tokens_;
      if (!fits && pending < at) {
        emit(pending, at, parent);
        pending = at;
        continue;
      }
      if (!fits) {
        const int unit = emit(at, at + 1, parent);
        plan(at + 1, next, above + tokens(at, at + 1), unit);
        pending = next;
      }
      at = next;
    }
    if (pending < end) emit(pending, end, parent);
  }

  std::vector<WalkUnit> take() { return std::move(units_); }

 private:
  /// The first segment behind `at` and all below it.
  size_t behind(size_t at, size_t end) const {
    size_t next = at + 1;
    while (next < end && segments_[next].level > segments_[at].level) ++next;
    return next;
  }

  /// Of segments [first, end), which follow each other.
  int64_t tokens(size_t first, size_t end) const {
    return segments_[end - 1].end - segments_[first].begin;
  }

  int emit(size_t first, size_t end, int parent) {
    WalkUnit unit;
    unit.parent = parent;
    unit.begin = segments_[first].begin;
    unit.end = segments_[end - 1].end;
    for (size_t i = first; i < end; ++i) {
      Segment segment = segments_[i];
      segment.begin -= unit.begin;
      segment.end -= unit.begin;
      // A unit of one segment leaves its descendants to others.
      segment.subtree_end = std::min(segment.subtree_end, unit.end) - unit.begin;
      segment.level -= segments_[first].level;
      unit.segments.push_back(segment);
    }
    units_.push_back(std::move(unit));
    return static_cast<int>(units_.size()) - 1;
  }

  const std::vector<Segment>& segments_;
  int64_t max_tokens_;
  std::vector<WalkUnit> units_;
};

}  // namespace

std::vector<WalkUnit> plan_walk(const std::vector<Segment>& segments, int64_t max_tokens) {
  Planner planner(segments, max_tokens);
  planner.plan(0, segments.size(), 0, -1);
  return planner.take();
}

}  // namespace espalier::learner
