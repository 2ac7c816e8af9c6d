// The nursery: a built-in suite of small procedural shell tasks. A task is (family, seed, depth);
// names, values and layout are drawn by the seed from a fixed lexicon. docs/nursery.md shows one
// transcript a family.
//
// A family is one file in this folder and one line in registry.cc.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/rng.h"
#include "envs/task.h"

namespace espalier::envs::nursery {

constexpr int kMinDepth = 1;
constexpr int kMaxDepth = 4;

/// "nursery:FAMILY/SEED" or "nursery:FAMILY/SEED/dDEPTH"; without a depth it is drawn from 1 – 4 by
/// the seed.
struct TaskId {
  std::string family;
  uint64_t seed = 0;
  int depth = 1;
  std::string name() const;  // always with the depth: "nursery:find/17/d2"
};

/// Whether the name is meant for the nursery at all.
bool is_task_id(const std::string& name);

/// Errors: TaskError naming the text seen and the families there are.
TaskId parse_task_id(const std::string& name);

enum class Tier { base, hard, luck };
const char* to_string(Tier tier);

struct FileSpec {
  std::string path;  // relative to the working directory
  std::string content;
  unsigned mode = 0644;
  bool directory = false;
};

/// Everything a task consists of, before it is written to disk. Pure function of the TaskId.
struct Blueprint {
  TaskId id;
  std::string instruction;  // one line, as in "find thorn"
  std::vector<FileSpec> files;
  std::vector<std::string> oracle;  // the command lines that solve it, the closing "exit" included
  std::string test_script;          // tests/test.sh; writes /logs/verifier/reward.txt
  std::vector<std::string>
      names;  // the task's words and some strangers: material for plausible mistakes
  int max_turns() const { return static_cast<int>(oracle.size()) + 1; }
};

std::vector<std::string> families(Tier tier);
/// Errors: TaskError naming the families there are.
Tier tier_of(const std::string& family);
/// What the family asks for, in a few words. Errors: as tier_of().
std::string summary_of(const std::string& family);
/// Errors: TaskError for an unknown family or a depth out of range.
Blueprint make_blueprint(const TaskId& id);

/// Writes the task directory, whole or not at all, unless it is there already, and returns the
/// loaded task. Any number of threads and processes may materialise the same task at once. Errors:
/// TaskError with the path.
TaskPtr materialise(const Blueprint& blueprint, const std::filesystem::path& directory);

/// Tasks for a purpose: families in turn, seeds from that purpose's own range, so that training,
/// evaluation and test never share a task.
enum class Split { sft, train, eval, test };
struct Draw {
  std::vector<std::string> families;  // empty: every family of the base tier
  int depth_min = 1;
  int depth_max = 4;
};
/// The index-th task of a split for a run seed (eval and test ignore the run seed: they are fixed
/// sets).
TaskId draw_task(Split split, uint64_t run_seed, uint64_t index, const Draw& draw);

/// A demonstrator that errs: with probability `noise` a turn is a plausible mistake (wrong name,
/// wrong command, a needless look, rarely a premature exit), after which the oracle's plan goes on.
/// No single mistake but the exit makes the plan impossible. Thread contract: one owner.
class NoisyOracle {
 public:
  NoisyOracle(const Blueprint& blueprint, double noise, common::RngKey key);
  /// The next command line; "exit" when the plan is done.
  std::string next();

 private:
  std::string mistake(const std::string& command);

  Blueprint blueprint_;
  double noise_;
  common::Rng rng_;
  size_t step_ = 0;
};

/// Strings that become single tokens of the nursery's tokenizer: lexicon, keys, command pieces.
std::vector<std::string> token_pieces();

}  // namespace espalier::envs::nursery
