// How a tree too large to be computed at once is walked. No torch in this header.
//
// Units are runs of whole segments in depth-first order. While a unit's descendants are computed
// its activations stay; so at any time one path of units is live, and what a descendant adds to the
// gradient of the path's keys and values waits there until the unit itself is done.
#pragma once

#include <cstdint>
#include <vector>

#include "learner/packing.h"

namespace espalier::learner {

struct WalkUnit {
  int parent = -1;                // unit whose last token it continues; −1: none
  int64_t begin = 0, end = 0;     // its tokens in the packed tree
  std::vector<Segment> segments;  // of those, counted from `begin`, levels from 0
};

/// Units of a packed tree, depth first. The tokens of a unit and of those it lies below are at most
/// `max_tokens`, except that a unit of one segment may be longer. Subtrees that fit are one unit,
/// neighbouring ones together.
std::vector<WalkUnit> plan_walk(const std::vector<Segment>& segments, int64_t max_tokens);

}  // namespace espalier::learner
