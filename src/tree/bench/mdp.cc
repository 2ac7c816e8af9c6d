#include "tree/bench/mdp.h"

#include <algorithm>
#include <cmath>

namespace espalier::tree {

Mdp::Mdp(const MdpShape& shape, common::Rng& rng) : shape_(shape) {
  const size_t size = static_cast<size_t>(parameters());
  policy_.resize(size);
  intended_.resize(size);
  for (size_t row = 0; row < size; row += static_cast<size_t>(shape.actions)) {
    double sum = 0;
    for (size_t a = row; a < row + static_cast<size_t>(shape.actions); ++a) {
      policy_[a] = std::exp(shape.sharpness * rng.normal());
      sum += policy_[a];
      intended_[a] = static_cast<int>(rng.range(0, shape.states - 1));
    }
    for (size_t a = row; a < row + static_cast<size_t>(shape.actions); ++a) policy_[a] /= sum;
  }
  const int good = std::clamp(static_cast<int>(std::lround((1 - shape.sparsity) * shape.states)), 1,
                              shape.states - 1);
  for (int s = 0; s < shape.states; ++s) rewards_.push_back(s < good ? 1.0 : 0.0);
}

double Mdp::probability(int turn, int state, int action) const {
  return policy_[index(turn, state, action)];
}

double Mdp::entropy(int turn, int state) const {
  if (turn >= shape_.depth) return 0;
  double sum = 0;
  for (int a = 0; a < shape_.actions; ++a) {
    const double p = probability(turn, state, a);
    sum -= p * std::log(p);
  }
  return sum;
}

int Mdp::draw_action(int turn, int state, common::Rng& rng) const {
  double left = rng.uniform();
  for (int a = 0; a + 1 < shape_.actions; ++a)
    if ((left -= probability(turn, state, a)) < 0) return a;
  return shape_.actions - 1;
}

int Mdp::draw_next(int turn, int state, int action, common::Rng& rng) const {
  if (rng.uniform() < shape_.noise) return static_cast<int>(rng.range(0, shape_.states - 1));
  return intended(turn, state, action);
}

double Mdp::transition(int turn, int state, int action, int next) const {
  return shape_.noise / shape_.states +
         (next == intended(turn, state, action) ? 1 - shape_.noise : 0);
}

void Mdp::add_score(int turn, int state, int action, double coefficient, Eigen::VectorXd& gradient,
                    int offset) const {
  const auto row = offset + static_cast<Eigen::Index>(index(turn, state, 0));
  for (int a = 0; a < shape_.actions; ++a)
    gradient[row + a] += coefficient * ((a == action ? 1 : 0) - probability(turn, state, a));
}

Eigen::VectorXd Mdp::exact_gradient() const {
  Eigen::VectorXd gradient = Eigen::VectorXd::Zero(parameters());
  const Eigen::Index states = shape_.states;
  std::vector<Eigen::VectorXd> value(static_cast<size_t>(shape_.depth) + 1);
  value.back() = Eigen::Map<const Eigen::VectorXd>(rewards_.data(), states);
  std::vector<Eigen::MatrixXd> worth(static_cast<size_t>(shape_.depth));  // Q(state, action)
  for (int t = shape_.depth; t-- > 0;) {
    const size_t turn = static_cast<size_t>(t);
    worth[turn] = Eigen::MatrixXd::Zero(states, shape_.actions);
    value[turn] = Eigen::VectorXd::Zero(states);
    for (int s = 0; s < shape_.states; ++s)
      for (int a = 0; a < shape_.actions; ++a) {
        for (int next = 0; next < shape_.states; ++next)
          worth[turn](s, a) += transition(t, s, a, next) * value[turn + 1][next];
        value[turn][s] += probability(t, s, a) * worth[turn](s, a);
      }
  }
  Eigen::VectorXd visits = Eigen::VectorXd::Unit(states, 0);
  for (int t = 0; t < shape_.depth; ++t) {
    Eigen::VectorXd later = Eigen::VectorXd::Zero(states);
    for (int s = 0; s < shape_.states; ++s)
      for (int a = 0; a < shape_.actions; ++a) {
        const double chance = visits[s] * probability(t, s, a);
        add_score(t, s, a, chance * worth[static_cast<size_t>(t)](s, a), gradient, 0);
        for (int next = 0; next < shape_.states; ++next)
          later[next] += chance * transition(t, s, a, next);
      }
    visits = later;
  }
  return gradient;
}

}  // namespace espalier::tree
