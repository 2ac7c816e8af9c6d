#include "envs/task_toml.h"

#include <cmath>
#include <cstdlib>
#include <optional>
#include <toml.hpp>

#include "common/error.h"

namespace espalier::envs {
namespace {

// Releases 3 and 4 of the library name it differently.
template <class Location>
auto line_of(const Location& location) {
  if constexpr (requires { location.line(); }) {
    return location.line();
  } else {
    return location.first_line_number();
  }
}

/// One table of the file, with typed reads that name the key when they fail.
class Section {
 public:
  Section(const std::filesystem::path& file, const toml::value& root, std::string name)
      : file_(file), name_(std::move(name)) {
    if (!root.contains(name_)) return;
    if (!root.at(name_).is_table()) refuse("", root.at(name_), "a table");
    table_ = &root.at(name_);
  }

  std::optional<double> number(const std::string& key, double least, double most) const {
    const toml::value* value = find(key);
    if (!value) return std::nullopt;
    double read = std::nan("");
    if (value->is_floating()) read = value->as_floating();
    if (value->is_integer()) read = static_cast<double>(value->as_integer());
    if (!(read >= least && read <= most))
      refuse(key, *value, "a number from " + shown(least) + " to " + shown(most));
    return read;
  }

  std::optional<std::string> text(const std::string& key) const {
    const toml::value* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_string()) refuse(key, *value, "a string");
    return toml::get<std::string>(*value);
  }

  std::optional<bool> flag(const std::string& key) const {
    const toml::value* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_boolean()) refuse(key, *value, "true or false");
    return value->as_boolean();
  }

  /// A size given as `key_mb = 2048` or, in older files, `key = "2G"`.
  std::optional<size_t> bytes(const std::string& key) const {
    constexpr double kMebibyte = 1 << 20;
    if (auto mebibytes = number(key + "_mb", 1, 1e9))
      return static_cast<size_t>(*mebibytes * kMebibyte);
    auto size = text(key);
    if (!size) return std::nullopt;
    char* unit = nullptr;
    double amount = std::strtod(size->c_str(), &unit);
    std::string suffix = unit;
    double factor = suffix == "G" ? 1024 * kMebibyte : suffix == "M" ? kMebibyte : 0;
    if (!(amount > 0) || factor == 0) refuse(key, *find(key), "a size such as \"512M\" or \"2G\"");
    return static_cast<size_t>(amount * factor);
  }

  /// Every scalar of the table as text.
  std::map<std::string, std::string> scalars() const {
    std::map<std::string, std::string> all;
    if (!table_) return all;
    for (const auto& [key, value] : table_->as_table()) {
      if (value.is_string()) all[key] = toml::get<std::string>(value);
      if (value.is_integer()) all[key] = std::to_string(value.as_integer());
      if (value.is_boolean()) all[key] = value.as_boolean() ? "true" : "false";
      if (value.is_floating()) all[key] = shown(value.as_floating());
    }
    return all;
  }

  std::map<std::string, std::string> variables() const {
    std::map<std::string, std::string> all;
    const toml::value* env = find("env");
    if (!env) return all;
    if (!env->is_table()) refuse("env", *env, "a table of strings");
    for (const auto& [key, value] : env->as_table()) {
      if (!value.is_string()) refuse("env." + key, value, "a string");
      all[key] = expanded("env." + key, toml::get<std::string>(value));
    }
    return all;
  }

 private:
  const toml::value* find(const std::string& key) const {
    return table_ && table_->contains(key) ? &table_->at(key) : nullptr;
  }

  static std::string shown(double number) {
    std::string text = std::to_string(number);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.ends_with('.')) text.pop_back();
    return text;
  }

  [[noreturn]] void refuse(const std::string& key, const toml::value& seen,
                           const std::string& allowed) const {
    std::string path = key.empty() ? name_ : name_ + "." + key;
    throw common::TaskError(file_.string() + ":" + std::to_string(line_of(seen.location())) + ": " +
                            path + " is " + toml::format(seen) + "; allowed: " + allowed);
  }

  std::string expanded(const std::string& key, const std::string& text) const {
    std::string result;
    size_t at = 0;
    for (size_t open; (open = text.find("${", at)) != std::string::npos;) {
      size_t close = text.find('}', open);
      if (close == std::string::npos) break;
      result += text.substr(at, open - at);
      std::string inside = text.substr(open + 2, close - open - 2);
      size_t otherwise = inside.find(":-");
      const char* value = std::getenv(inside.substr(0, otherwise).c_str());
      if (!value && otherwise == std::string::npos)
        throw common::TaskError(file_.string() + ": " + name_ + "." + key +
                                " needs the variable '" + inside +
                                "', which is not set and has no default");
      result += value ? std::string(value) : inside.substr(otherwise + 2);
      at = close + 1;
    }
    return result + text.substr(at);
  }

  std::filesystem::path file_;
  std::string name_;
  const toml::value* table_ = nullptr;
};

toml::value parse(const std::filesystem::path& file) {
  try {
    return toml::parse(file.string());
  } catch (const std::exception& error) {
    throw common::TaskError("task file '" + file.string() + "': " + error.what());
  }
}

void read_environment(const Section& environment, EnvironmentSpec& spec) {
  if (auto image = environment.text("docker_image")) spec.image = *image;
  if (auto workdir = environment.text("workdir")) spec.workdir = *workdir;
  if (auto cpus = environment.number("cpus", 0.01, 1e4)) spec.limits.cpus = *cpus;
  if (auto memory = environment.bytes("memory")) spec.limits.memory_bytes = *memory;
  if (auto storage = environment.bytes("storage")) spec.limits.disk_bytes = *storage;
  if (auto internet = environment.flag("allow_internet")) spec.network = *internet;
  if (auto mode = environment.text("network_mode")) spec.network = *mode == "public";
  spec.variables.merge(environment.variables());
}

}  // namespace

void read_task_toml(const std::filesystem::path& file, Task& task) {
  constexpr double kLongestSeconds = 1e7;
  toml::value root = parse(file);
  if (auto name = Section(file, root, "task").text("name")) task.name = *name;
  Section metadata(file, root, "metadata");
  task.metadata = metadata.scalars();
  if (auto turns = metadata.number("max_turns", 1, 1e6)) task.max_turns = static_cast<int>(*turns);
  if (auto timeout = metadata.number("command_timeout_sec", 0.1, kLongestSeconds))
    task.command_timeout_s = *timeout;
  if (auto timeout = Section(file, root, "agent").number("timeout_sec", 0.1, kLongestSeconds))
    task.agent_timeout_s = *timeout;
  Section verifier(file, root, "verifier");
  if (auto timeout = verifier.number("timeout_sec", 0.1, kLongestSeconds))
    task.verifier.timeout_s = *timeout;
  task.verifier.variables = verifier.variables();
  read_environment(Section(file, root, "environment"), task.environment);
}

}  // namespace espalier::envs
