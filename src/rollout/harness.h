// Harnesses: how a task, actions and observations become tokens, and how an action becomes a command.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/task.h"
#include "policy/tokenizer.h"

namespace espalier::rollout {

struct ParsedAction {
  std::string command;     // what the shell is given
  bool ends = false;       // the agent ends the episode (`exit`)
};

/// Thread contract: immutable, any thread.
class Harness {
 public:
  virtual ~Harness() = default;
  virtual std::string name() const = 0;
  virtual std::vector<policy::Token> prompt(const envs::Task& task) const = 0;
  virtual std::vector<policy::Token> stop_tokens() const = 0;
  virtual ParsedAction parse(const std::vector<policy::Token>& action) const = 0;
  /// Context tokens that follow an action: what the environment answered and the next prompt.
  virtual std::vector<policy::Token> observe(const envs::Observation& observation) const = 0;
  /// Tokens of a scripted command.
  virtual std::vector<policy::Token> encode_action(const std::string& command) const = 0;
};

/// One command line a turn: "<instruction>\n$ " | "<command>\n" → "<output>\n$ ". Observations are cut to max_observation_tokens.
std::unique_ptr<Harness> make_bash_harness(policy::TokenizerPtr tokenizer, int max_observation_tokens);

}  // namespace espalier::rollout
