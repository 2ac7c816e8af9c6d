// Harnesses: how a task, actions and observations become tokens, and how an action becomes a
// command.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"
#include "envs/task.h"
#include "policy/tokenizer.h"
#include "tree/trace_tree.h"

namespace espalier::rollout {

struct ParsedAction {
  std::string command;  // what the shell is given
  bool ends = false;    // the agent ends the episode (`exit`): nothing is run
  std::string refusal;  // set: the command is not run and this is its output
};

/// `exit` and `exit N`.
bool ends_episode(const std::string& command);

/// What of an observation the policy gets to see.
struct Shown {
  std::vector<policy::Token> tokens;  // context tokens behind the action, the next prompt included
  std::string text;                   // the answer alone, as those tokens spell it
};

/// Thread contract: immutable, any thread.
class Harness {
 public:
  virtual ~Harness() = default;
  virtual std::string name() const = 0;
  virtual std::vector<policy::Token> prompt(const envs::Task& task) const = 0;
  virtual std::vector<policy::Token> stop_tokens() const = 0;
  /// An action without its stop token (cut by a limit) is a command like any other.
  virtual ParsedAction parse(const std::vector<policy::Token>& action) const = 0;
  virtual Shown observe(const envs::Observation& observation) const = 0;
  /// Tokens of a scripted command.
  virtual std::vector<policy::Token> encode_action(const std::string& command) const = 0;
};

/// `output` without what bash says of its session's line numbers, which a new shell counts anew.
std::string without_line_numbers(const std::string& output);

/// Whether the recorded turn's command ran: neither refused nor the episode's end, and answered.
bool was_run(const Harness& harness, const tree::Node& node);

/// Whether the command did what a recorded turn says, as far as the policy was shown it.
bool shows_the_same(const Harness& harness, const envs::Observation& seen, const tree::Node& node);

/// One command line a turn: "<instruction>\n$ " | "<command>\n" → "<output>\n$ ". The output loses
/// one trailing newline and is cut to max_observation_tokens; where nothing is left, its newline is
/// left out too. With `serial_only` (the deterministic mode) a
/// command with parts that run at the same time (`|`, `&`, `<(`) is refused: in which order they
/// write depends on the scheduler, which no seed controls. Errors: PolicyError when the tokenizer
/// has no token for a newline.
std::unique_ptr<Harness> make_bash_harness(policy::TokenizerPtr tokenizer,
                                           int max_observation_tokens, bool serial_only = false);

}  // namespace espalier::rollout
