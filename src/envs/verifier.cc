// Environment::verify and the default of put_tree.
//
// Harbor's rules: tests arrive in /tests only now; the exit code of test.sh is ignored; reward.json
// (a flat object of numbers) is preferred to reward.txt; what is missing or unreadable is a failure
// by name, never a reward of 0.
#include <cmath>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "envs/environment.h"

namespace espalier::envs {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxRewardBytes = 1 << 20;
constexpr const char* kRewardJson = "/logs/verifier/reward.json";
constexpr const char* kRewardText = "/logs/verifier/reward.txt";

std::string trimmed(const std::string& text) {
  size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

void set_reward(Verdict* verdict, double reward) {
  if (std::isfinite(reward)) {
    verdict->reward = reward;
  } else {
    verdict->failure = "VerifierOutputParseError";
  }
}

/// The number named "reward", or the only one.
void read_json_reward(const std::string& text, Verdict* verdict) {
  verdict->failure = "VerifierOutputParseError";
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return;
  for (const auto& [name, value] : json.items())
    if (!value.is_number()) return;
  if (!json.contains("reward") && json.size() != 1) return;
  verdict->failure.clear();
  set_reward(verdict,
             json.contains("reward") ? json["reward"].get<double>() : json.begin()->get<double>());
}

void read_text_reward(const std::string& text, Verdict* verdict) {
  std::string number = trimmed(text);
  char* end = nullptr;
  double reward = std::strtod(number.c_str(), &end);
  if (end != number.c_str() + number.size()) {
    verdict->failure = "VerifierOutputParseError";
  } else {
    set_reward(verdict, reward);
  }
}

void read_reward(Environment& environment, Verdict* verdict) {
  auto json = environment.read_file(kRewardJson, kMaxRewardBytes);
  auto text = json ? json : environment.read_file(kRewardText, kMaxRewardBytes);
  if (!text) {
    verdict->failure = "RewardFileNotFoundError";
  } else if (trimmed(*text).empty()) {
    verdict->failure = "RewardFileEmptyError";
  } else if (json) {
    read_json_reward(*json, verdict);
  } else {
    read_text_reward(*text, verdict);
  }
}

/// One verification in progress; the callbacks keep it alive.
struct Verification : std::enable_shared_from_this<Verification> {
  Environment* environment;  // alive while an operation of it is in progress
  VerifierSpec spec;
  Completion<Verdict> done;
  Clock::time_point started = Clock::now();

  void upload() {
    // Nothing that the agent left there counts, neither tests nor rewards.
    environment->put_tree("/logs/verifier", {}, next([](Verification& self) {
                            self.environment->put_tree(
                                "/tests", self.spec.tests,
                                self.next([](Verification& self) { self.make_runnable(); }));
                          }));
  }

  /// Harbor sets the execute bit whatever the task's own says.
  void make_runnable() {
    fs::path script = spec.tests / "test.sh";
    auto bits = fs::status(script).permissions() & fs::perms::others_exec;
    if (bits != fs::perms::none) return run();
    environment->put_file("/tests/test.sh", common::read_file(script), 0755,
                          next([](Verification& self) { self.run(); }));
  }

  Completion<common::Done> next(void (*then)(Verification&)) {
    return [self = shared_from_this(), then](common::Result<common::Done> r) {
      if (!r.ok()) return self->done(r.error());
      then(*self);
    };
  }

  void run() {
    ExecSpec exec;
    exec.argv = {"/tests/test.sh"};
    exec.as_root = true;
    exec.variables = spec.variables;
    // A deadline beyond what the clock can say is none.
    Deadline deadline = spec.timeout_s < 1e9
                            ? Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                                 std::chrono::duration<double>(spec.timeout_s))
                            : Deadline::max();
    environment->exec(std::move(exec), deadline,
                      [self = shared_from_this()](common::Result<Observation> r) {
                        if (!r.ok()) return self->done(r.error());
                        self->judge(r.value());
                      });
  }

  void judge(const Observation& observation) {
    Verdict verdict;
    verdict.output = observation.output;
    if (observation.timed_out) {
      verdict.failure = "VerifierTimeoutError";
    } else {
      read_reward(*environment, &verdict);
    }
    verdict.duration_us =
        std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started).count();
    done(std::move(verdict));
  }
};

/// The default put_tree: one put_file after another.
struct TreeUpload : std::enable_shared_from_this<TreeUpload> {
  Environment* environment;
  std::string path;
  std::vector<fs::path> files;
  fs::path from;
  size_t next_file = 0;
  Completion<common::Done> done;

  void put_next() {
    if (next_file == files.size()) return done(common::Done{});
    const fs::path& file = files[next_file++];
    try {
      auto mode = unsigned(fs::status(file).permissions()) & 07777;
      environment->put_file(path + "/" + file.lexically_relative(from).string(),
                            common::read_file(file), mode,
                            [self = shared_from_this()](common::Result<common::Done> r) {
                              if (!r.ok()) return self->done(r.error());
                              self->put_next();
                            });
    } catch (const std::exception& e) {
      done(std::make_exception_ptr(common::TaskError("upload " + file.string() + ": " + e.what())));
    }
  }
};

}  // namespace

void Environment::put_tree(std::string path, const fs::path& from, Completion<common::Done> done) {
  auto upload = std::make_shared<TreeUpload>();
  upload->environment = this;
  upload->path = path;
  upload->from = from;
  upload->done = std::move(done);
  if (!from.empty())
    for (const auto& entry : fs::recursive_directory_iterator(from))
      if (entry.is_regular_file()) upload->files.push_back(entry.path());
  ExecSpec clear;
  clear.argv = {"/bin/sh", "-c", "rm -rf -- \"$1\" && mkdir -p -- \"$1\"", "put_tree", path};
  clear.cwd = "/";
  clear.as_root = true;
  exec(std::move(clear), Deadline::max(), [upload](common::Result<Observation> r) {
    if (!r.ok()) return upload->done(r.error());
    if (r.value().exit_code != 0)
      return upload->done(std::make_exception_ptr(
          common::SandboxError("clear " + upload->path + ": " + r.value().output)));
    upload->put_next();
  });
}

void Environment::verify(const VerifierSpec& spec, Completion<Verdict> done) {
  if (!fs::is_regular_file(spec.tests / "test.sh"))
    return done(std::make_exception_ptr(
        common::TaskError("verify: " + (spec.tests / "test.sh").string() + " is not a file")));
  auto verification = std::make_shared<Verification>();
  verification->environment = this;
  verification->spec = spec;
  verification->done = std::move(done);
  verification->upload();
}

}  // namespace espalier::envs
