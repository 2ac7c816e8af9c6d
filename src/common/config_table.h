// The table of configuration keys: what parsing, printing, documentation and hints share. Private
// to common/config*.cc.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/config.h"

namespace espalier::common::config {

/// Where a key's value lives in a Config.
using Access = std::variant<bool* (*)(Config&), int* (*)(Config&), uint64_t* (*)(Config&),
                            double* (*)(Config&), std::string* (*)(Config&),
                            std::vector<std::string>* (*)(Config&)>;

/// An interval of numbers, closed unless an end says otherwise.
struct Range {
  double low = 0;
  double high = 0;
  bool low_open = false;
  bool high_open = false;
};

/// Values a text (or every element of a list) may take; empty: any.
using Choices = std::vector<std::string>;

using Limit = std::variant<std::monostate, Range, Choices>;

struct Key {
  std::string path;  // "learner.optim.lr"
  Access access;
  Limit limit;
  std::string help;
};

struct Section {
  std::string path;  // "learner.optim"; empty: the top level
  std::string help;
};

/// In the order in which they are printed: a section's keys are adjacent, a subsection follows its
/// parent.
const std::vector<Key>& keys();
const std::vector<Section>& sections();

/// nullptr when there is none of this path.
const Key* find_key(const std::string& path);
bool is_section(const std::string& path);

/// "learner.optim" of "learner.optim.lr", "lr" of it; a path without dots has an empty parent.
std::string parent_of(const std::string& path);
std::string last_of(const std::string& path);

/// "integer", "number", "true or false", "text", "list of texts".
std::string type_name(const Key& key);

/// "1 to 64", "more than 0, up to 1", "tree_loo, rloo, grpo"; empty when anything goes.
std::string allowed_values(const Key& key);

/// What stood where a value is expected.
struct Seen {
  enum class Kind { nothing, plain, quoted, list, map };
  Kind kind = Kind::nothing;
  std::string text;         // plain, quoted
  std::vector<Seen> items;  // list
};

/// Stores the value seen in the configuration. Returns what is wrong with it ("expected an integer,
/// got '1.5'; allowed: 1 to 64"), empty when all is well.
std::string assign(const Key& key, const Seen& seen, Config& config);

/// Value of the key in a configuration, as YAML that reads back to it exactly.
std::string format_value(const Key& key, const Config& config);

/// "; did you mean '…'?" for a path that is no key: the nearest key or section, or what another
/// trainer's name for it is called here. Empty when nothing is near.
std::string hint_for_path(const std::string& unknown);
/// The same for a text that is none of the choices.
std::string hint_for_choice(const std::string& unknown, const Choices& choices);

/// Whether the path begins as paths of other trainers do ("actor_rollout_ref"), so that the names
/// below it tell more than it does.
bool is_foreign_section(const std::string& path);

/// Edit distance with transpositions of neighbours (Damerau-Levenshtein, restricted form).
size_t edit_distance(const std::string& a, const std::string& b);

/// A relation between keys that does not hold.
struct Conflict {
  std::vector<std::string> paths;  // the first that was set is blamed
  std::string message;
};
std::vector<Conflict> conflicts(const Config& config);

}  // namespace espalier::common::config
