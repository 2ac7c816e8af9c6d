#include "common/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <map>

#include "common/config_table.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier::common {
namespace {

using config::Key;
using config::Seen;

constexpr const char* kSeeHelp = "; `espalier help config` lists every key";

// YAML's aliases can make a value contain itself; no key or list of ours goes this deep.
constexpr int kMaxDepth = 8;

Seen see(const YAML::Node& node, int depth = 0) {
  Seen seen;
  if (node.IsScalar()) {
    seen.kind = node.Tag() == "!" ? Seen::Kind::quoted : Seen::Kind::plain;
    seen.text = node.Scalar();
  } else if (node.IsSequence()) {
    seen.kind = Seen::Kind::list;
    if (depth == kMaxDepth) return seen;
    for (const YAML::Node& item : node) seen.items.push_back(see(item, depth + 1));
  } else if (node.IsMap()) {
    seen.kind = Seen::Kind::map;
  }
  return seen;
}

/// Collects every error of a configuration, so that one try shows them all.
class Reader {
 public:
  explicit Reader(std::string origin) : origin_(std::move(origin)) {}

  void read_document(const std::string& yaml) try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(yaml);
    if (documents.size() > 1) {
      return report(at(documents[1]), "a second YAML document; a configuration is one");
    }
    if (documents.empty() || documents[0].IsNull()) {
      return report(origin_, std::string("empty; expected a map of keys") + kSeeHelp);
    }
    if (!documents[0].IsMap()) {
      const char* seen = documents[0].IsSequence() ? "a list" : "a single value";
      return report(at(documents[0]),
                    std::string("expected a map of keys at the top, got ") + seen + kSeeHelp);
    }
    read_map(documents[0], "");
  } catch (const YAML::Exception& error) {
    report(origin_ + ":" + std::to_string(error.mark.line + 1), "not valid YAML: " + error.msg);
  }

  void apply_override(const std::string& assignment) {
    const std::string place = "command line";
    const size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      return report(place, "'" + assignment + "': expected key=value");
    }
    const std::string path = assignment.substr(0, equals);
    const Key* key = config::find_key(path);
    if (key) return set(*key, see_override(*key, assignment.substr(equals + 1)), place);
    if (config::is_section(path)) {
      return report(place, "'" + path + "' is a section; set the keys in it one by one");
    }
    report_unknown(path, place);
  }

  Config finish() {
    if (errors_.empty()) {
      for (const config::Conflict& conflict : config::conflicts(config_)) {
        report(blame(conflict), conflict.message);
      }
    }
    if (errors_.empty()) return config_;
    std::string message;
    for (const std::string& error : errors_) message += (message.empty() ? "" : "\n") + error;
    throw ConfigError(message);
  }

 private:
  std::string at(const YAML::Node& node) const {
    return origin_ + ":" + std::to_string(node.Mark().line + 1);
  }

  void report(const std::string& place, const std::string& message) {
    errors_.push_back(place + ": " + message);
  }

  void report_unknown(const std::string& path, const std::string& place) {
    const std::string hint = config::hint_for_path(path);
    report(place, "unknown key '" + path + "'" + (hint.empty() ? kSeeHelp : hint));
  }

  void read_map(const YAML::Node& map, const std::string& section) {
    for (const auto& entry : map) {
      if (!entry.first.IsScalar()) {
        report(at(entry.first), "expected the name of a key, got a list, a map or nothing");
        continue;
      }
      const std::string name = entry.first.Scalar();
      read_entry(section.empty() ? name : section + "." + name, entry.first, entry.second);
    }
  }

  void read_entry(const std::string& path, const YAML::Node& name, const YAML::Node& value) {
    const Key* key = config::find_key(path);
    if (!key && !config::is_section(path)) return read_unknown(path, name, value);
    const int line = name.Mark().line + 1;
    if (const auto [first, is_new] = first_lines_.emplace(path, line); !is_new) {
      return report(at(name), "duplicate key '" + path + "'; first set on line " +
                                  std::to_string(first->second));
    }
    if (key) return set(*key, see(value), at(name));
    if (value.IsMap()) return read_map(value, path);
    // A section whose keys are all commented out is as good as none.
    if (!value.IsNull()) {
      report(at(name), path + ": expected a map of keys, got " +
                           (value.IsSequence() ? "a list" : "'" + value.Scalar() + "'"));
    }
  }

  void read_unknown(const std::string& path, const YAML::Node& name, const YAML::Node& value) {
    const auto depth = std::count(path.begin(), path.end(), '.');
    if (value.IsMap() && value.size() > 0 && depth < kMaxDepth &&
        config::is_foreign_section(path)) {
      for (const auto& entry : value) {
        if (entry.first.IsScalar()) {
          read_unknown(path + "." + entry.first.Scalar(), entry.first, entry.second);
        }
      }
      return;
    }
    report_unknown(path, at(name));
  }

  /// Texts are taken as they stand, so that no quoting of the shell's and YAML's adds up; the rest
  /// is YAML.
  Seen see_override(const Key& key, const std::string& value) {
    const bool is_text = config::type_name(key) == "text";
    if (is_text && !value.starts_with('"') && !value.starts_with('\'')) {
      return {Seen::Kind::plain, value, {}};
    }
    try {
      return see(YAML::Load(value));
    } catch (const YAML::Exception&) {
      return {Seen::Kind::plain, value, {}};
    }
  }

  void set(const Key& key, const Seen& seen, const std::string& place) {
    places_[key.path] = place;
    const std::string error = config::assign(key, seen, config_);
    if (!error.empty()) report(place, key.path + ": " + error);
  }

  std::string blame(const config::Conflict& conflict) const {
    for (const std::string& path : conflict.paths) {
      if (const auto place = places_.find(path); place != places_.end()) return place->second;
    }
    return origin_;
  }

  const std::string origin_;
  Config config_;
  std::vector<std::string> errors_;
  std::map<std::string, int> first_lines_;     // of keys and sections of the document
  std::map<std::string, std::string> places_;  // where a key was set last
};

/// One line a key; a section's line goes before its first key.
std::string indent_of(const std::string& section) {
  std::string indent;
  for (const char c : section) {
    if (c == '.') indent += "  ";
  }
  return section.empty() ? "" : indent + "  ";
}

/// `text` wrapped at `width` columns, every line after `indent`.
std::string wrap(const std::string& text, const std::string& indent, size_t width) {
  std::string wrapped, line = indent;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    if (line.size() > indent.size() && line.size() + 1 + word.size() > width) {
      wrapped += line + "\n";
      line = indent;
    }
    line += (line.size() > indent.size() ? " " : "") + word;
    begin = end + 1;
  }
  return wrapped + line + "\n";
}

}  // namespace

Config parse_config(const std::string& yaml, const std::string& origin,
                    const std::vector<std::string>& overrides) {
  Reader reader(origin);
  reader.read_document(yaml);
  for (const std::string& assignment : overrides) reader.apply_override(assignment);
  return reader.finish();
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  std::string yaml;
  try {
    yaml = read_file(file);
  } catch (const StoreError& error) {
    throw ConfigError(std::string("read configuration: ") + error.what());
  }
  return parse_config(yaml, file.string(), overrides);
}

std::string to_yaml(const Config& config) {
  std::string yaml, section;
  for (const Key& key : config::keys()) {
    const std::string parent = config::parent_of(key.path);
    if (parent != section) {
      section = parent;
      yaml += indent_of(config::parent_of(section)) + config::last_of(section) + ":\n";
    }
    yaml += indent_of(section) + config::last_of(key.path) + ": " +
            config::format_value(key, config) + "\n";
  }
  return yaml;
}

std::string config_help() {
  constexpr size_t kWidth = 92;
  const Config defaults;
  std::string help =
      "Keys of a configuration: key = default (type: allowed values).\n"
      "In a YAML file they are nested, as in rollout: {n: 8}; on the command line rollout.n=8.\n";
  for (const config::Section& section : config::sections()) {
    help += "\n" + (section.path.empty() ? "top level" : section.path) + ": " + section.help + "\n";
    for (const Key& key : config::keys()) {
      if (config::parent_of(key.path) != section.path) continue;
      const std::string allowed = config::allowed_values(key);
      const std::string values =
          "(" + config::type_name(key) + (allowed.empty() ? "" : ": " + allowed) + ")";
      const std::string head = "  " + key.path + " = " + config::format_value(key, defaults);
      const bool fits = head.size() + 2 + values.size() <= kWidth;
      help += fits ? head + "  " + values + "\n" : head + "\n" + wrap(values, "      ", kWidth);
      help += wrap(key.help, "      ", kWidth);
    }
  }
  return help;
}

}  // namespace espalier::common
