#include "learner/checkpointing.h"

#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace espalier::learner {
namespace {

struct HeldLayer : torch::CustomClassHolder {
  policy::LayerFunction layer;
};
using HeldLayerPtr = c10::intrusive_ptr<HeldLayer>;

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  /// `anchor` requires a gradient: the layer's weights do, even where `hidden` does not.
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& /*anchor*/, const HeldLayerPtr& held) {
    context->save_for_backward({hidden});
    context->saved_data["layer"] = c10::IValue::make_capsule(held);
    return held->layer(hidden);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    const auto held =
        c10::static_intrusive_pointer_cast<HeldLayer>(context->saved_data["layer"].toCapsule());
    const at::Tensor hidden = context->get_saved_variables()[0].detach().requires_grad_(true);
    {
      const c10::AutoGradMode with_grad(true);
      torch::autograd::backward({held->layer(hidden)}, {grads[0]});
    }
    return {hidden.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor run_checkpointed(const policy::LayerFunction& layer, const at::Tensor& hidden) {
  if (!c10::GradMode::is_enabled()) return layer(hidden);
  auto held = c10::make_intrusive<HeldLayer>();
  held->layer = layer;
  const at::Tensor anchor = at::zeros({1}, hidden.options()).requires_grad_(true);
  return CheckpointFunction::apply(hidden, anchor, held);
}

}  // namespace espalier::learner
