// reinforce_pp: normalised over the whole batch (Hu et al. 2025, REINFORCE++).
//
//   A_l = (R_l − μ_B) / (σ_B + ε), constant over the path of leaf l; μ_B, σ_B: mean and sample
//   standard deviation of all leaf rewards of the step. With baseline: parent the prompt's mean V_x
//   is taken off instead of μ_B ("REINFORCE++-baseline").
//
// A prompt whose rewards are all equal is credited against the other prompts.
//
// Example: a batch of two prompts with one root each, rewards 1 and 0. μ_B = ½, σ_B = 1/√2, ε = 0:
// A = ½·√2 and −½·√2. ω = 1.
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

Profile profile() {
  Profile profile;
  profile.baselines = {Baseline::mean, Baseline::parent};
  profile.sigmas = {Sigma::batch, Sigma::off, Sigma::prompt};
  return profile;
}

class ReinforcePp final : public Estimator {
 public:
  explicit ReinforcePp(const AdvantageOptions& given)
      : Estimator("reinforce_pp", profile(), given) {}

 private:
  Credits credit(const TreeView& view, const Batch& batch) const override {
    const double centre = mean(baseline == Baseline::mean ? batch.rewards : view.rewards);
    Credits credits;
    for (double reward : view.rewards) credits.leaf.push_back(reward - centre);
    return credits;
  }
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_reinforce_pp(const AdvantageOptions& options) {
  return std::make_unique<ReinforcePp>(options);
}

}  // namespace espalier::tree
