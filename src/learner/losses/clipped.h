// The clipped surrogate that several losses share. Sees torch.
#pragma once

#include "learner/loss.h"

namespace espalier::learner {

/// exp of the log-ratio, which is held within ±20: more says nothing and would overflow float32.
at::Tensor probability_ratio(const at::Tensor& log_ratio);

/// S⁺·min(r, 1+ε_hi) + S⁻·max(r, 1−ε_lo), exactly Σ_l min(r·A_l, clip(r)·A_l) (Schulman et al.
/// 2017, eq. 7) over the leaves below; with a dual clip c > 0 S⁻'s factor is capped at c (Ye et al.
/// 2020, eq. 5).
EdgeObjective clipped_objective(const LossInput& input, const LossOptions& options);

}  // namespace espalier::learner
