// A nursery task while it is being drawn: what a family's function writes into.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/rng.h"
#include "envs/nursery/nursery.h"

namespace espalier::envs::nursery {

/// Collects files, the oracle's commands and the verifier's conditions, all paths relative to the
/// current directory of the oracle at that point (enter() moves it). Thread contract: one owner.
class Draft {
 public:
  explicit Draft(TaskId id);

  int depth() const { return id_.depth; }

  // Draws.
  int range(int low, int high);  // uniform in [low, high]
  bool chance(double probability);
  std::string word();  // never the same twice in one task
  std::vector<std::string> words(int count);
  std::vector<std::string> keys(int count);                 // distinct settings
  std::vector<int> distinct(int count, int low, int high);  // distinct numbers of [low, high]

  // What the agent finds and is told.
  void file(const std::string& name, std::string content, unsigned mode = 0644);
  void directory(const std::string& name);
  void say(const std::string& words);  // a part of the instruction; parts are joined by spaces

  // What the oracle does. The closing `exit` is added by finish().
  void step(std::string command);
  /// step("cd name"), and everything that follows happens there.
  void enter(const std::string& name);

  // What the verifier wants: every condition given.
  void require(const std::string& bash_test);  // an expression for [[ … ]]
  /// The file holds exactly this, a final newline or its absence aside.
  void require_content(const std::string& name, std::string_view content);
  /// A line of bash run when all conditions hold, after `reward=1`.
  void on_success(std::string line);

  Blueprint finish();

 private:
  std::string here(const std::string& name) const { return directory_ + name; }
  std::string test_script() const;

  TaskId id_;
  common::Rng rng_;
  std::vector<std::string> deck_;  // the shuffled lexicon; the first `dealt_` are in use
  size_t dealt_ = 0;
  std::string directory_;  // "" or "a/b/"
  Blueprint blueprint_;
  std::vector<std::string> conditions_;
  std::vector<std::string> on_success_;
};

}  // namespace espalier::envs::nursery
