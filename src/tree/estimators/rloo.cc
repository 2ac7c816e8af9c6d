// rloo: leave-one-out over the prompt's leaves (Kool et al. 2019; Ahmadian et al. 2024).
//
//   A_l = R_l − (1/(N−1))·Σ_{l'≠l} R_l', constant over the path of leaf l; N leaves of the prompt.
//
// Example (tests/tree/advantage_test.cc): two roots; r0 branches in two with rewards 1 and 0, r1
// earns 0. N = 3.
//   A = 1, −½, −½. S⁺(r0) = ⅓, S⁻(r0) = −⅙; r1: 0, −⅙; b0: ⅓, 0; b1: 0, −⅙.
#include "tree/estimators/factories.h"
#include "tree/tree_values.h"

namespace espalier::tree {
namespace {

class Rloo final : public AdvantageEstimator {
 public:
  explicit Rloo(const AdvantageOptions& options) : options_(options) {}
  std::string name() const override { return "rloo"; }
  bool credits_prefix() const override { return false; }

  void estimate(Tree& tree) const override {
    const TreeValues values = tree_values(tree);
    const double divide_by = divisor(values, options_);
    std::vector<double> advantages;
    for (size_t l = 0; l < values.leaves.size(); ++l)
      advantages.push_back(leave_one_out(values.rewards, l) / divide_by);
    spread_leaf_advantages(tree, values, advantages);
  }

 private:
  AdvantageOptions options_;
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_rloo(const AdvantageOptions& options) {
  return std::make_unique<Rloo>(options);
}

}  // namespace espalier::tree
