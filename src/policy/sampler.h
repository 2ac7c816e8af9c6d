// Choosing a token from a distribution. No torch in here.
#pragma once

#include <span>

#include "policy/policy.h"

namespace espalier::policy {

/// Errors: PolicyError naming the field, the value seen and the values allowed.
void check_sampling(const SamplingOptions& options);

/// Token for a uniform draw u in [0, 1), by the inverse of the distribution function over ids in
/// ascending order. `log_probs` and `probs` are the temperature-1 distribution. top_k applies
/// first, then top_p to what is left of it (renormalised), both to the distribution at
/// options.temperature. Temperature 0: the likeliest, lowest id on ties. Errors: PolicyError when
/// the distribution is not finite.
Token sample(std::span<const float> log_probs, std::span<const float> probs,
             const SamplingOptions& options, double u);

}  // namespace espalier::policy
