#include <algorithm>
#include <array>
#include <utility>

#include "common/error.h"
#include "envs/nursery/lexicon.h"
#include "envs/nursery/nursery.h"

namespace espalier::envs::nursery {
namespace {

// How mistakes divide: the right command with a wrong name, any plausible command, a needless look;
// what is left is a premature exit.
constexpr double kWrongName = 0.4;
constexpr double kWrongCommand = 0.8;
constexpr double kNeedlessLook = 0.9;

constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kCommands = {{
    {"cat ", ""},
    {"cp ", " out"},
    {"touch ", ""},
    {"mkdir ", ""},
    {"cd ", ""},
    {"chmod +r ", ""},
    {"chmod +x ", ""},
    {"echo ", " > out"},
    {"tar xvf ", ".tar"},
    {"rm ", ""},
}};

bool is_word_byte(char c) { return c >= 'a' && c <= 'z'; }

/// Where the lexicon's words stand in a command: (offset, length).
std::vector<std::pair<size_t, size_t>> words_in(const std::string& command) {
  std::vector<std::pair<size_t, size_t>> found;
  for (size_t i = 0; i < command.size();) {
    size_t end = i;
    while (end < command.size() && is_word_byte(command[end])) ++end;
    std::string_view run = std::string_view(command).substr(i, end - i);
    if (std::find(words().begin(), words().end(), run) != words().end())
      found.emplace_back(i, end - i);
    i = std::max(end, i + 1);
  }
  return found;
}

template <class T>
const T& pick(const std::vector<T>& items, common::Rng& rng) {
  return items[static_cast<size_t>(rng.range(0, static_cast<int64_t>(items.size()) - 1))];
}

bool is_planned(const std::string& command, const Blueprint& blueprint) {
  return std::find(blueprint.oracle.begin(), blueprint.oracle.end(), command) !=
         blueprint.oracle.end();
}

/// Whether the task has a file, or else a directory, of this name anywhere.
bool is_there(std::string_view name, bool directory, const Blueprint& blueprint) {
  return std::any_of(blueprint.files.begin(), blueprint.files.end(), [&](const FileSpec& file) {
    std::string_view path = file.path;
    return file.directory == directory && path.substr(path.rfind('/') + 1) == name;
  });
}

/// Whether some planned command speaks of the name.
bool is_named(std::string_view name, const Blueprint& blueprint) {
  return std::any_of(blueprint.oracle.begin(), blueprint.oracle.end(),
                     [&](const auto& command) { return command.find(name) != std::string::npos; });
}

/// Whether the plan could not go on after it: a file of the task removed, a door of it taken, a
/// name of it occupied by the wrong kind of thing.
bool is_fatal(const std::string& command, const Blueprint& blueprint) {
  size_t space = command.find(' ');
  if (space == std::string::npos) return false;
  std::string verb = command.substr(0, space), name = command.substr(space + 1);
  if (verb == "rm") return is_there(name, false, blueprint);
  if (verb == "cd") {
    return is_there(name, true, blueprint) || is_planned("mkdir " + name, blueprint);
  }
  return (verb == "mkdir" || verb == "touch") && !is_there(name, false, blueprint) &&
         !is_planned(command, blueprint) && is_named(name, blueprint);
}

}  // namespace

NoisyOracle::NoisyOracle(const Blueprint& blueprint, double noise, common::RngKey key)
    : blueprint_(blueprint), noise_(noise), rng_(key) {
  ESPALIER_CHECK(!blueprint_.oracle.empty() && !blueprint_.names.empty(),
                 "a blueprint without a plan");
}

std::string NoisyOracle::next() {
  if (step_ >= blueprint_.oracle.size()) return "exit";
  const std::string& planned = blueprint_.oracle[step_];
  std::string command = rng_.uniform() < noise_ ? mistake(planned) : planned;
  if (command == planned) ++step_;
  return command;
}

std::string NoisyOracle::mistake(const std::string& command) {
  double kind = rng_.uniform();
  std::string wrong = "exit";
  if (kind < kWrongName) {
    std::vector<std::pair<size_t, size_t>> places = words_in(command);
    wrong = "ls";
    if (!places.empty()) {
      auto [offset, length] = pick(places, rng_);
      wrong = std::string(command).replace(offset, length, pick(blueprint_.names, rng_));
    }
  } else if (kind < kWrongCommand) {
    auto [before, after] = kCommands[static_cast<size_t>(rng_.range(0, kCommands.size() - 1))];
    wrong = std::string(before) + pick(blueprint_.names, rng_) + std::string(after);
  } else if (kind < kNeedlessLook) {
    wrong = "ls";
  }
  return wrong != command && is_fatal(wrong, blueprint_) ? "ls" : wrong;
}

}  // namespace espalier::envs::nursery
