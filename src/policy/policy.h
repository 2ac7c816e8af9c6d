// The policy contract: contexts in, actions out, with everything training needs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/result.h"
#include "common/rng.h"
#include "policy/context.h"

namespace espalier::policy {

struct SamplingOptions {
  double temperature = 1.0;  // 0: greedy
  double top_p = 1.0;
  int top_k = -1;           // -1: off
  int max_new_tokens = 16;  // the context's end may cut it shorter
  std::vector<Token> stop_tokens;
};

struct GenerateRequest {
  ContextPtr context;  // all tokens before the action; at least one
  SamplingOptions sampling;
  common::RngKey key;  // draw i of the action uses counter i
  uint64_t order = 0;  // sorts a deterministic batch: derived from (task ordinal, tree path)
};

enum class StopReason { stop_token, max_tokens, context_full };

struct Generation {
  std::vector<Token> tokens;     // the stop token included
  std::vector<float> log_probs;  // under the policy at temperature 1, whatever the sampling
  std::vector<float> entropies;  // nats, of the temperature-1 distribution
  StopReason stop = StopReason::stop_token;
  uint64_t policy_version = 0;
  ContextPtr context;         // the request's context extended by `tokens`, its KV attached
  size_t prefill_tokens = 0;  // computed for this request
  size_t cached_tokens = 0;   // taken from a shared prefix
};

/// What is known before anything is sampled.
struct Prefilled {
  double first_entropy = 0;  // of the next token's distribution at temperature 1, nats
  size_t prefill_tokens = 0;
  size_t cached_tokens = 0;
};

class Weights;  // policy/weights.h: a model's parameters (LibTorch), immutable once published
using WeightsPtr = std::shared_ptr<const Weights>;

/// Thread contract: all methods from any thread. generate() and prefill() return at once;
/// completions are called on the engine's thread, exactly once, in the deterministic mode in the
/// batch's order — so what a completion decides (forks, budget) depends on the seed alone. Errors
/// reach the completion as PolicyError; after close() as Cancelled.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual void generate(GenerateRequest request, common::Completion<Generation> done) = 0;
  /// Computes the context's KV (kept with the context) and the next token's entropy.
  virtual void prefill(GenerateRequest request, common::Completion<Prefilled> done) = 0;
  /// New weights for all requests that start from now on. KV of older versions is never reused.
  virtual void publish(WeightsPtr weights, uint64_t version) = 0;
  virtual uint64_t version() const = 0;
  virtual size_t context_limit() const = 0;  // tokens

  /// Lock-step: a deterministic round starts when every participant waits in generate() or
  /// prefill(). Episodes join before they start (a forked child before its parent goes on) and
  /// leave when they end.
  virtual void join(size_t participants = 1) = 0;
  virtual void leave(size_t participants = 1) = 0;

  virtual void close() = 0;
};

/// Membership of one episode in the lock-step rounds. Movable; leaves when it goes.
class Participant {
 public:
  /// Takes over a membership that join() already made.
  explicit Participant(Policy* policy) : policy_(policy) {}
  Participant(Participant&& other) noexcept : policy_(std::exchange(other.policy_, nullptr)) {}
  Participant& operator=(Participant&&) = delete;
  ~Participant() {
    if (policy_) policy_->leave();
  }

 private:
  Policy* policy_;
};

}  // namespace espalier::policy
