// Environment over a sandbox.
#pragma once

#include <memory>
#include <string>

#include "envs/environment.h"
#include "envs/sandbox/sandbox.h"

namespace espalier::envs::sandbox {

/// What an environment's operations work on; outlives the environment while one is in progress.
/// Used on the reactor's thread.
struct EnvironmentState {
  std::shared_ptr<Core> core;
  std::shared_ptr<Sandbox> sandbox;  // replaced by fork() and by the operation after it
  // Set while it rests, from a live fork until the next operation: sandbox is frozen, and all there
  // is to go on with is copies of its session, started from `next`.
  OriginPtr origin;
  SandboxSeed next;
  bool closed = false;
};

/// Thread contract: as Environment. Starts, forks and restores are the free functions below.
class LocalEnvironment : public Environment {
 public:
  explicit LocalEnvironment(std::shared_ptr<EnvironmentState> state);
  ~LocalEnvironment() override;

  void run(std::string command, Deadline deadline, Completion<Observation> done) override;
  void type(Typing typing, Completion<TerminalView> done) override;
  void interrupt() override;
  void fork(Completion<Fork> done) override;
  void snapshot(Completion<SnapshotId> done) override;
  void exec(ExecSpec spec, Deadline deadline, Completion<Observation> done) override;
  void put_file(std::string path, std::string content, unsigned mode,
                Completion<common::Done> done) override;
  void put_tree(std::string path, const std::filesystem::path& from,
                Completion<common::Done> done) override;
  std::optional<std::string> read_file(const std::string& path, size_t max_bytes) override;

 private:
  std::shared_ptr<EnvironmentState> state_;
};

/// Starts a sandbox and wraps it. On the reactor's thread.
void start_environment(const std::shared_ptr<Core>& core, SandboxSeed seed,
                       Completion<EnvironmentPtr> done);

/// Writes the shell's state down. Errors: NotForkable when something besides init and shell runs in
/// the sandbox, or the shell's state is more than bash can say. The sandbox is unharmed. On the
/// reactor's thread.
void dump_shell(const std::shared_ptr<Sandbox>& sandbox, Completion<std::string> done);

/// fork(): live where that can be, else by value. Errors: NotForkable. On the reactor's thread.
void fork_environment(const std::shared_ptr<EnvironmentState>& state, Completion<Fork> done);
/// fork() by value alone (fork.cc). The environment does not rest. On the reactor's thread.
void fork_by_value(const std::shared_ptr<EnvironmentState>& state, Completion<Fork> done);

/// Calls `done` once the environment's session runs: after a live fork it rests until something is
/// to be done in it. On the reactor's thread.
void awaken(const std::shared_ptr<EnvironmentState>& state, Completion<common::Done> done);
/// Wraps a running sandbox.
EnvironmentPtr make_environment(const std::shared_ptr<Core>& core,
                                std::shared_ptr<Sandbox> sandbox);

}  // namespace espalier::envs::sandbox
