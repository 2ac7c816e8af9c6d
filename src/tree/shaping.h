// What happens around the estimator: the length penalty before it, the filter after it.
#pragma once

#include <span>
#include <string>

#include "tree/advantage.h"

namespace espalier::tree {

struct ShapingOptions {
  std::string filter_groups = "none";  // none | prompt | fork
  int overlong_length = 0;             // 0: no penalty
  int overlong_buffer = 0;
  double overlong_penalty = 1;
};

struct ShapingCounts {
  int prompts_filtered = 0;  // trees all of whose nodes are filtered for want of spread
  int groups_filtered =
      0;  // branchings (a prompt's roots are one) whose members are worth the same
  int leaves_penalised = 0;
};

/// The soft overlong penalty (Yu et al. 2025, eq. 13), from 0 to −overlong_penalty, of an episode
/// of `tokens` action tokens: it begins overlong_buffer before overlong_length and is whole there.
///   −penalty · clamp((tokens − (length − buffer)) / buffer, 0, 1)
/// Example: length 100, buffer 20, penalty 1: 80 tokens: 0; 90: −½; 100 and more: −1.
double overlong_reward(int64_t tokens, const ShapingOptions& options);

/// Estimates as if every leaf's reward had its length penalty on top; the recorded rewards stay as
/// they are. Then filters what no difference of rewards bears on (Node::filtered): with `prompt`
/// the trees whose leaves all earn the same; with `fork` also the nodes behind a branching whose
/// members are all worth the same, unless the estimator credits them with something else. Filtered
/// nodes count nowhere: not in means over tokens, not in the entropy bonus. Errors: ConfigError for
/// an unknown filter.
ShapingCounts estimate_shaped(const AdvantageEstimator& estimator, std::span<Tree> trees,
                              const ShapingOptions& options);

/// Whether nothing of the tree is left to train on.
bool is_filtered(const Tree& tree);

}  // namespace espalier::tree
