#include "envs/nursery/draft.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/error.h"
#include "envs/nursery/lexicon.h"

namespace espalier::envs::nursery {
namespace {

// A mistaken name is drawn from the task's own words and from strangers, so that both "wrong one"
// and "not there" are seen.
constexpr size_t kNamesForMistakes = 12;

template <class T>
void shuffle(std::vector<T>& items, common::Rng& rng) {
  for (size_t i = items.size(); i > 1; --i)
    std::swap(items[i - 1], items[static_cast<size_t>(rng.range(0, static_cast<int64_t>(i) - 1))]);
}

std::string single_quoted(std::string_view text) {
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

common::RngKey key_of(const TaskId& id) {
  return common::derive_key(id.seed, "nursery:" + id.family, "d" + std::to_string(id.depth));
}

}  // namespace

Draft::Draft(TaskId id) : id_(std::move(id)), rng_(key_of(id_)) {
  deck_.assign(nursery::words().begin(), nursery::words().end());
  shuffle(deck_, rng_);
}

int Draft::range(int low, int high) { return static_cast<int>(rng_.range(low, high)); }

bool Draft::chance(double probability) { return rng_.uniform() < probability; }

std::string Draft::word() {
  ESPALIER_CHECK(dealt_ < deck_.size(), "a family draws more words than the lexicon has");
  return deck_[dealt_++];
}

std::vector<std::string> Draft::words(int count) {
  std::vector<std::string> drawn;
  for (int i = 0; i < count; ++i) drawn.push_back(word());
  return drawn;
}

std::vector<std::string> Draft::keys(int count) {
  std::vector<std::string> drawn(nursery::keys().begin(), nursery::keys().end());
  shuffle(drawn, rng_);
  drawn.resize(static_cast<size_t>(count));
  return drawn;
}

std::vector<int> Draft::distinct(int count, int low, int high) {
  std::vector<int> numbers(static_cast<size_t>(high - low + 1));
  std::iota(numbers.begin(), numbers.end(), low);
  shuffle(numbers, rng_);
  numbers.resize(static_cast<size_t>(count));
  return numbers;
}

void Draft::file(const std::string& name, std::string content, unsigned mode) {
  blueprint_.files.push_back({here(name), std::move(content), mode, false});
}

void Draft::directory(const std::string& name) {
  blueprint_.files.push_back({here(name), "", 0755, true});
}

void Draft::say(const std::string& words) {
  if (!blueprint_.instruction.empty()) blueprint_.instruction += ' ';
  blueprint_.instruction += words;
}

void Draft::step(std::string command) { blueprint_.oracle.push_back(std::move(command)); }

void Draft::enter(const std::string& name) {
  step("cd " + name);
  directory_ += name + "/";
}

void Draft::require(const std::string& bash_test) {
  conditions_.push_back("[[ " + bash_test + " ]]");
}

void Draft::require_content(const std::string& name, std::string_view content) {
  if (content.ends_with('\n')) content.remove_suffix(1);
  conditions_.push_back("holds " + single_quoted(here(name)) + " " + single_quoted(content));
}

void Draft::on_success(std::string line) { on_success_.push_back(std::move(line)); }

// Builtins only: a verification costs one exec. The read is bounded, and only of regular files,
// because the agent decides what lies there.
std::string Draft::test_script() const {
  std::string script =
      "#!/bin/bash\n"
      "holds() {\n"
      "  local got=\n"
      "  [[ -f $1 ]] && IFS= read -r -d '' -n 4096 got < \"$1\"\n"
      "  [[ ${got%$'\\n'} == \"$2\" ]]\n"
      "}\n"
      "reward=0\n"
      "if cd /app";
  for (const std::string& condition : conditions_) script += " &&\n   " + condition;
  script += "; then\n  reward=1\n";
  for (const std::string& line : on_success_) script += "  " + line + "\n";
  script += "fi\necho \"$reward\" > /logs/verifier/reward.txt\n";
  return script;
}

Blueprint Draft::finish() {
  step("exit");
  blueprint_.id = id_;
  blueprint_.test_script = test_script();
  size_t names = std::min(deck_.size(), std::max(dealt_, kNamesForMistakes));
  blueprint_.names.assign(deck_.begin(), deck_.begin() + static_cast<std::ptrdiff_t>(names));
  return std::move(blueprint_);
}

}  // namespace espalier::envs::nursery
