// Packing of trajectories that are no tree yet: what they have in common at the front is computed
// once. No torch in this header.
#pragma once

#include <vector>

#include "learner/packing.h"

namespace espalier::learner {

/// All root-to-leaf paths of all trees, sorted by their tokens; each takes over the longest prefix
/// it shares with the one before, in steps of 16 tokens, as shorter segments cost more in attention
/// calls than they save. An edge that several paths have counts the sum of their shares and
/// weights: the objective is that of pack(). For objectives that know an edge's state and target
/// alone (behaviour cloning): edges of several trees become one, of the first tree. Micro-batches
/// as in pack().
std::vector<Packed> pack_merged(const std::vector<const tree::Tree*>& trees,
                                const PackOptions& options);

}  // namespace espalier::learner
