// Activation checkpointing (Chen et al. 2016). Sees torch.
#pragma once

#include "policy/transformer.h"

namespace espalier::learner {

/// A LayerRunner: keeps the layer's input alone and computes the layer again in the backward pass,
/// with the same result. The layer's weights must outlive the graph.
at::Tensor run_checkpointed(const policy::LayerFunction& layer, const at::Tensor& hidden);

}  // namespace espalier::learner
