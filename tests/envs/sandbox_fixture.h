// What the tests of environments share: a backend for each test and blocking forms of its
// operations.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/error.h"
#include "common/files.h"
#include "envs/sandbox/backend.h"

namespace espalier::envs::testing {

inline Deadline in_seconds(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

/// Blocking forms; a generous deadline unless the test is about deadlines.
inline Observation run(Environment& environment, const std::string& command,
                       double timeout_s = 60) {
  return common::await<Observation>(
      [&](auto done) { environment.run(command, in_seconds(timeout_s), std::move(done)); });
}
inline std::string output_of(Environment& environment, const std::string& command) {
  return run(environment, command).output;
}
inline TerminalView type(Environment& environment, const std::string& keys, int at_most_ms = 1000,
                         int quiet_ms = 0) {
  Typing typing{keys, std::chrono::milliseconds(at_most_ms), std::chrono::milliseconds(quiet_ms)};
  return common::await<TerminalView>([&](auto done) { environment.type(typing, std::move(done)); });
}
/// Types keys and looks until the screen or the new output has `wanted`, or 30 s are over; output
/// is all that came meanwhile.
inline TerminalView type_until(Environment& environment, const std::string& keys,
                               const std::string& wanted) {
  TerminalView seen = type(environment, keys, 20);
  std::string output = seen.output;
  for (Deadline end = in_seconds(30); Clock::now() < end && !seen.session_ended;) {
    if (seen.screen.find(wanted) != std::string::npos || output.find(wanted) != std::string::npos)
      break;
    seen = type(environment, "", 20);
    output += seen.output;
  }
  seen.output = output;
  return seen;
}
inline Fork fork_of(Environment& environment) {
  return common::await<Fork>([&](auto done) { environment.fork(std::move(done)); });
}
inline SnapshotId snapshot_of(Environment& environment) {
  return common::await<SnapshotId>([&](auto done) { environment.snapshot(std::move(done)); });
}
inline Observation exec(Environment& environment, std::vector<std::string> argv, bool as_root,
                        double timeout_s = 60) {
  ExecSpec spec;
  spec.argv = std::move(argv);
  spec.as_root = as_root;
  return common::await<Observation>(
      [&](auto done) { environment.exec(spec, in_seconds(timeout_s), std::move(done)); });
}
inline Observation as_root(Environment& environment, const std::string& script,
                           double timeout_s = 60) {
  return exec(environment, {"/bin/bash", "-c", script}, true, timeout_s);
}
inline void put_file(Environment& environment, const std::string& path, const std::string& content,
                     unsigned mode = 0644) {
  common::await<common::Done>(
      [&](auto done) { environment.put_file(path, content, mode, std::move(done)); });
}

inline void write_host_file(const std::filesystem::path& path, const std::string& content,
                            mode_t mode) {
  std::filesystem::create_directories(path.parent_path());
  common::write_file_atomically(path, content);
  chmod(path.c_str(), mode);
}

/// Processes of this machine with this command line, words joined by blanks.
inline std::vector<pid_t> host_processes(const std::string& command_line) {
  std::vector<pid_t> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    std::ifstream file(entry.path() / "cmdline", std::ios::binary);
    std::string words((std::istreambuf_iterator<char>(file)), {});
    std::replace(words.begin(), words.end(), '\0', ' ');
    if (words == command_line + " ") found.push_back(std::stoi(name));
  }
  return found;
}
/// Waits until none is left; false after ten seconds.
inline bool gone_from_host(const std::string& command_line) {
  for (int i = 0; i < 1000; ++i) {
    if (host_processes(command_line).empty()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// A tests directory whose test.sh is `script`, judged.
inline Verdict verify_with(Environment& environment, const std::string& script,
                           double timeout_s = 60) {
  common::TempDir tests("espalier-test-verifier");
  write_host_file(tests.path() / "test.sh", script, 0644);
  VerifierSpec spec;
  spec.tests = tests.path();
  spec.timeout_s = timeout_s;
  return common::await<Verdict>([&](auto done) { environment.verify(spec, std::move(done)); });
}

/// Base of suites over the sandbox backend: skips, with the reason, where the machine cannot have
/// one.
class SandboxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SandboxOptions options = this->options();
    options.snapshot_dir = directory_.path() / "snapshots";
    try {
      backend_ = make_sandbox_backend(options);
    } catch (const common::SandboxError& e) {
      GTEST_SKIP() << "no sandboxes on this machine: " << e.what();
    }
  }
  virtual SandboxOptions options() const { return {}; }

  EnvironmentPtr create(EnvironmentSpec spec = {}) {
    return common::await<EnvironmentPtr>(
        [&](auto done) { backend_->create(spec, std::move(done)); });
  }
  EnvironmentPtr open(const SnapshotId& id) {
    return common::await<EnvironmentPtr>([&](auto done) { backend_->open(id, std::move(done)); });
  }

  common::TempDir directory_{"espalier-envs-test"};
  std::unique_ptr<Backend> backend_;
};

}  // namespace espalier::envs::testing
