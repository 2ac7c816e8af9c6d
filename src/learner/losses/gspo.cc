// gspo: one ratio a root-to-leaf path, the geometric mean of its tokens' (Zheng et al. 2025, eqs. 5
// and 7). On a tree the log-probs are summed along each path, and an edge's gradient comes in from
// every path through it.
//
//   s_l = exp( (1/T_l)·Σ_{t on path l} log r_t )
//   J(edge) = Σ_{leaves l below} min(s_l·c_l, clip(s_l)·c_l),  c_l the edge's coefficient of leaf l
//
// c_l is the estimator's (tree::Node::leaf_credits). Where it is the same on the whole path,
// seq-mean-token-mean gives the published loss.
//
// Example: one path of two edges, c = 1, log r = 0.1 and −0.3: s = e^−0.1 = 0.905; J = 0.905 each.
// With c = −1 and ε_lo = 4e-4: J = −0.9996, clipped.
#include <ATen/ops/clamp_max.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "learner/losses/clipped.h"
#include "learner/losses/factories.h"

namespace espalier::learner {
namespace {

class Gspo final : public Loss {
 public:
  using Loss::Loss;
  bool needs_paths() const override { return true; }

 private:
  EdgeObjective objective(const LossInput& input) const override {
    const double high = 1.0 + options().clip_high, low = 1.0 - options().clip_low;
    const LossPaths& paths = input.paths;
    const at::Tensor log_ratio = input.log_probs - input.old_log_probs;
    const at::Tensor none = at::zeros(log_ratio.sizes(), log_ratio.options());
    if (paths.count == 0) return {.value = none * log_ratio};  // no leaf has a reward
    const at::Tensor sums = at::zeros({paths.count}, log_ratio.options())
                                .index_add(0, paths.path, log_ratio.index_select(0, paths.edge));
    const at::Tensor ratio = probability_ratio(sums / paths.lengths).index_select(0, paths.path);
    const at::Tensor gains = paths.credit > 0;
    const at::Tensor terms =
        paths.credit * at::where(gains, at::clamp_max(ratio, high), at::clamp_min(ratio, low));
    const at::Tensor clipped =
        at::where(gains, ratio > high, (ratio < low).logical_and(paths.credit < 0));
    EdgeObjective objective;
    objective.value = none.index_add(0, paths.edge, terms);
    objective.clipped = none.index_add(0, paths.edge, clipped * paths.share);
    return objective;
  }
};

}  // namespace

std::unique_ptr<Loss> make_gspo(const common::LearnerConfig& config) {
  return std::make_unique<Gspo>(
      loss_options("gspo", config,
                   {.clip_low = 3e-4, .clip_high = 4e-4, .loss_agg_mode = "seq-mean-token-mean"}));
}

}  // namespace espalier::learner
