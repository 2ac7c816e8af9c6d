// Small models and plain reference computations for the tests of policy/.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "policy/context.h"
#include "policy/model_config.h"
#include "policy/weights.h"

namespace espalier::policy::testing {

inline ModelShape tiny_shape() {
  ModelShape shape;
  shape.vocab_size = 37;
  shape.hidden_size = 24;
  shape.num_hidden_layers = 2;
  shape.num_attention_heads = 4;
  shape.num_key_value_heads = 2;
  shape.head_dim = 16;
  shape.intermediate_size = 40;
  shape.max_position_embeddings = 48;
  return shape;
}

/// Random weights of unit-ish scale in every tensor, norms included, so that no term of the
/// formulas is trivially one.
std::shared_ptr<Weights> random_weights(const ModelShape& shape, uint64_t seed);

/// Logits [tokens][vocab] by loops over doubles, written from the formulas alone.
std::vector<std::vector<double>> reference_logits(const Weights& weights,
                                                  const std::vector<Token>& tokens);

std::vector<double> log_softmax(const std::vector<double>& logits);
double entropy(const std::vector<double>& log_probs);

std::vector<Token> random_tokens(size_t count, int vocab, uint64_t seed);

/// All tokens of a context.
std::vector<Token> tokens_of(const Context& context);

}  // namespace espalier::policy::testing
