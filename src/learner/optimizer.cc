#include "learner/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/error.h"
#include "policy/safetensors.h"

namespace espalier::learner {
namespace {

constexpr double kFinalShare = 0.1;
constexpr char kFile[] = "optimizer.safetensors";

}  // namespace

double learning_rate(const common::OptimConfig& config, int step, int total_steps) {
  double factor = 1.0;
  if (config.lr_warmup_steps > 0)
    factor = std::min(1.0, (step + 1.0) / static_cast<double>(config.lr_warmup_steps));
  const double progress =
      std::clamp(step / static_cast<double>(std::max(1, total_steps)), 0.0, 1.0);
  double decay = 0;  // from 1 to 0
  if (config.lr_scheduler == "constant") return config.lr * factor;
  if (config.lr_scheduler == "linear") {
    decay = 1.0 - progress;
  } else if (config.lr_scheduler == "cosine") {
    decay = 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  } else {
    throw common::ConfigError("lr_scheduler: got '" + config.lr_scheduler +
                              "'; allowed: constant, linear, cosine");
  }
  return config.lr * factor * (kFinalShare + (1.0 - kFinalShare) * decay);
}

AdamW::AdamW(std::map<std::string, at::Tensor> parameters) : parameters_(std::move(parameters)) {
  reset();
}

void AdamW::reset() {
  for (const auto& [name, parameter] : parameters_) {
    exp_avg_[name] = at::zeros_like(parameter.detach());
    exp_avg_sq_[name] = at::zeros_like(parameter.detach());
    steps_[name] = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(parameter.device()));
  }
  zero_grad();
}

void AdamW::zero_grad() {
  for (auto& [name, parameter] : parameters_) parameter.mutable_grad() = at::Tensor();
}

double AdamW::clip(double max_norm) {
  double squares = 0;
  bad_parameter_.clear();
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.grad().defined()) continue;
    const double norm = at::linalg_vector_norm(parameter.grad()).item<double>();
    squares += norm * norm;
    if (!std::isfinite(norm) && bad_parameter_.empty()) bad_parameter_ = name;
  }
  const double norm = std::sqrt(squares);
  if (max_norm > 0 && norm > max_norm) {
    for (auto& [name, parameter] : parameters_) {
      if (parameter.grad().defined()) parameter.mutable_grad().mul_(max_norm / norm);
    }
  }
  return norm;
}

void AdamW::step(const common::OptimConfig& config, double lr) {
  std::vector<at::Tensor> parameters, grads, averages, squares, steps;
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.grad().defined()) continue;
    parameters.push_back(parameter.detach());
    grads.push_back(parameter.grad());
    averages.push_back(exp_avg_[name]);
    squares.push_back(exp_avg_sq_[name]);
    steps_[name].add_(1);
    steps.push_back(steps_[name]);
  }
  at::_fused_adamw_(parameters, grads, averages, squares, /*max_exp_avg_sqs=*/{}, steps, lr,
                    config.beta1, config.beta2, config.weight_decay, config.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
  zero_grad();
}

std::function<void(const std::filesystem::path&)> AdamW::writer() const {
  policy::TensorMap tensors;
  for (const auto& [name, parameter] : parameters_) {
    tensors["exp_avg." + name] = exp_avg_.at(name).clone();
    tensors["exp_avg_sq." + name] = exp_avg_sq_.at(name).clone();
    tensors["step." + name] = steps_.at(name).clone();
  }
  return [tensors = std::move(tensors)](const std::filesystem::path& directory) {
    policy::save_safetensors(directory / kFile, tensors, {{"format", "espalier-adamw-1"}});
  };
}

void AdamW::load(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kFile;
  policy::TensorMap tensors;
  try {
    tensors = policy::load_safetensors(path);
  } catch (const common::PolicyError& error) {
    throw common::StoreError(std::string("load optimizer: ") + error.what());
  }
  auto take = [&](const std::string& name, at::Tensor& into) {
    const auto found = tensors.find(name);
    if (found == tensors.end() || found->second.sizes() != into.sizes() ||
        found->second.scalar_type() != into.scalar_type()) {
      throw common::StoreError("load optimizer " + path.string() + ": tensor " + name +
                               " is missing or of another shape or type than the model's");
    }
    into.copy_(found->second);
  };
  for (const auto& [name, parameter] : parameters_) {
    take("exp_avg." + name, exp_avg_[name]);
    take("exp_avg_sq." + name, exp_avg_sq_[name]);
    take("step." + name, steps_[name]);
  }
}

}  // namespace espalier::learner
