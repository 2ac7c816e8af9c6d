// The conformance suite's fixture: every promise of envs/environment.h, tried on every subject of
// conformance_subjects.cc. The tests are in conformance_*_test.cc, by theme.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <vector>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {

/// A backend and an image that the suite runs on.
struct Subject {
  std::string name;  // letters, digits and underscores: part of the tests' names
  /// A backend whose snapshots lie in this directory; called again where a test needs another one.
  /// SandboxError: this machine cannot have it; the tests are then skipped with its text.
  std::function<std::unique_ptr<Backend>(const std::filesystem::path& snapshots)> make;
  std::function<std::string()> image = [] { return std::string("host"); };
  /// Promises that this kind of environment does not make, with the reason: "disk_limit",
  /// "pids_limit", "memory_limit", "snapshot_bits". Their tests are skipped with it.
  std::map<std::string, std::string> lacks = {};
};
inline void PrintTo(const Subject& subject, std::ostream* out) { *out << subject.name; }

/// One line each.
std::vector<Subject> conformance_subjects();

class Conformance : public ::testing::TestWithParam<Subject> {
 protected:
  void SetUp() override {
    try {
      backend_ = GetParam().make(directory_.path() / "snapshots");
      environment_ = create();
    } catch (const common::SandboxError& error) {
      GTEST_SKIP() << GetParam().name << " cannot be had on this machine: " << error.what();
    }
  }
  void TearDown() override {
    environment_.reset();
    if (backend_) {
      EXPECT_EQ(backend_->live_environments(), 0u);
    }
  }

  /// Why the subject does not make this promise; empty: it does.
  std::string lacks(const std::string& promise) const {
    auto found = GetParam().lacks.find(promise);
    return found == GetParam().lacks.end() ? "" : found->second;
  }
  EnvironmentPtr create(EnvironmentSpec spec = {}) {
    spec.image = GetParam().image();
    return common::await<EnvironmentPtr>(
        [&](auto done) { backend_->create(spec, std::move(done)); });
  }
  EnvironmentPtr open(const SnapshotId& id) {
    return common::await<EnvironmentPtr>([&](auto done) { backend_->open(id, std::move(done)); });
  }
  /// As another process would: nothing of the first backend is left.
  void replace_backend() {
    environment_.reset();
    backend_.reset();
    backend_ = GetParam().make(directory_.path() / "snapshots");
  }
  /// The child, or null when the state was refused as not forkable.
  EnvironmentPtr fork_or_refusal(Environment& environment, std::string* reason) {
    try {
      return fork_of(environment).child;
    } catch (const common::NotForkable& refusal) {
      *reason = refusal.what();
      return nullptr;
    }
  }

  common::TempDir directory_{"espalier-envs-test"};
  std::unique_ptr<Backend> backend_;
  EnvironmentPtr environment_;
};

}  // namespace espalier::envs::testing
