// grpo: the group mean as baseline (Shao et al. 2024, DeepSeekMath, section 4.1.2).
//
//   A_l = (R_l − V_x) / (σ_x + ε) with norm_adv_by_std, R_l − V_x without (Liu et al. 2025, Dr.
//   GRPO); V_x, σ_x: mean and sample standard deviation (N − 1) of the prompt's N leaf rewards.
//   Constant over the path of leaf l.
//
// Example (tests/tree/advantage_test.cc): two roots; r0 branches in two with rewards 1 and 0, r1
// earns 0. N = 3, V_x = ⅓, σ_x = 1/√3, no normalisation: A = ⅔, −⅓, −⅓. S⁺(r0) = 2/9, S⁻(r0) =
// −1/9; r1: 0, −1/9. Normalised (ε = 0): times √3.
#include "tree/estimators/factories.h"
#include "tree/tree_values.h"

namespace espalier::tree {
namespace {

class Grpo final : public AdvantageEstimator {
 public:
  explicit Grpo(const AdvantageOptions& options) : options_(options) {}
  std::string name() const override { return "grpo"; }
  bool credits_prefix() const override { return false; }

  void estimate(Tree& tree) const override {
    const TreeValues values = tree_values(tree);
    const double divide_by = divisor(values, options_);
    const double baseline = mean(values.rewards);
    std::vector<double> advantages;
    for (double reward : values.rewards) advantages.push_back((reward - baseline) / divide_by);
    spread_leaf_advantages(tree, values, advantages);
  }

 private:
  AdvantageOptions options_;
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_grpo(const AdvantageOptions& options) {
  return std::make_unique<Grpo>(options);
}

}  // namespace espalier::tree
