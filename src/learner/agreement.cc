#include "learner/agreement.h"

#include <algorithm>
#include <cmath>

namespace espalier::learner {

void Agreement::add(const at::Tensor& learner_log_probs, const at::Tensor& rollout_log_probs,
                    const at::Tensor& share) {
  auto column = [](const at::Tensor& tensor) {
    return tensor.to(at::kCPU, at::kDouble).contiguous();
  };
  const at::Tensor learner = column(learner_log_probs), rollout = column(rollout_log_probs);
  const at::Tensor weights = column(share);
  for (int64_t i = 0; i < learner.numel(); ++i) {
    const double x = std::exp(learner.const_data_ptr<double>()[i]);
    const double y = std::exp(rollout.const_data_ptr<double>()[i]);
    const double w = weights.const_data_ptr<double>()[i];
    count_ += w;
    difference_ += w * std::abs(x - y);
    largest_ = std::max(largest_, std::abs(x - y));
    x_ += w * x;
    y_ += w * y;
    xx_ += w * x * x;
    yy_ += w * y * y;
    xy_ += w * x * y;
  }
}

void Agreement::put(common::Metrics& metrics) const {
  if (count_ <= 0) return;
  const double mean_x = x_ / count_, mean_y = y_ / count_;
  const double var_x = xx_ / count_ - mean_x * mean_x, var_y = yy_ / count_ - mean_y * mean_y;
  const double covariance = xy_ / count_ - mean_x * mean_y;
  const double spread = std::sqrt(std::max(0.0, var_x) * std::max(0.0, var_y));
  metrics["training/rollout_probs_diff_mean"] = difference_ / count_;
  metrics["training/rollout_probs_diff_max"] = largest_;
  metrics["training/rollout_actor_probs_pearson_corr"] =
      spread > 0 ? covariance / spread : (largest_ == 0 ? 1.0 : 0.0);
}

}  // namespace espalier::learner
