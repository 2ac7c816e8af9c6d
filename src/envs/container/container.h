// One container of an engine with its session: what an environment's operations do, step by step.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "envs/container/core.h"
#include "envs/container/session.h"
#include "envs/environment.h"

namespace espalier::envs::container {

/// What a container is started from.
struct Seed {
  EnvironmentSpec spec;  // its files are laid into the working directory of a new session only
  ImagePtr image;
  bool resumed = false;  // the image holds an environment's files already; restore is its shell
  std::string restore;
  int last_exit_code = 0;
};

/// What the engine is asked to create.
nlohmann::json creation_request(const Seed& seed, const std::string& owner);

/// Thread contract: one operation at a time, each of which blocks; close(), arm() and interrupt()
/// from any thread. Errors of every operation: SandboxError; Cancelled once closed.
class Container {
 public:
  /// Creates, starts and attaches. What was made is removed when something fails.
  static std::shared_ptr<Container> start(std::shared_ptr<Core> core, Seed seed);

  const std::shared_ptr<Core>& core() const { return core_; }
  const Seed& seed() const { return seed_; }
  Session& session() { return *session_; }

  Observation run(const std::string& command, Deadline deadline);
  Observation exec(const ExecSpec& spec, Deadline deadline);
  void put_file(const std::string& path, const std::string& content, unsigned mode);
  void put_tree(const std::string& path, const std::filesystem::path& from);
  std::optional<std::string> read_file(const std::string& path, size_t max_bytes);
  /// The image of the container's files as they are; the one it was started from when nothing was
  /// written. `store` names a snapshot's directory; empty: an image that goes with its last owner.
  ImagePtr commit(const std::string& store);

  void arm() { session_->arm(); }
  void interrupt() { session_->interrupt(); }
  /// Ends what is in progress; nothing works any more.
  void close();
  bool closed() const { return closed_; }
  /// Stops and removes the container, if it is there.
  void remove();

 private:
  class Listed;
  Container(std::shared_ptr<Core> core, Seed seed)
      : core_(std::move(core)), seed_(std::move(seed)) {}
  void create();
  void begin_session();
  common::HttpUpgrade attach(const std::vector<std::string>& argv, const std::string& user,
                             const std::string& cwd,
                             const std::map<std::string, std::string>& variables, bool with_input,
                             std::string* exec_id);
  std::optional<int> exit_code_of(const std::string& exec_id);
  void kill_processes(bool shell_too);
  void end();
  void run_as_root(const std::string& what, const std::vector<std::string>& argv);
  bool put_archive(const std::string& directory, const std::string& tar);
  void require_directory(const std::string& directory);
  bool changed();
  void check_open() const;
  void require_running();

  std::shared_ptr<Core> core_;
  Seed seed_;
  std::string id_;
  std::string user_;          // of the session and of exec, as the engine takes it
  std::string session_exec_;  // the engine's name for the session's process
  std::unique_ptr<Session> session_;
  std::atomic<bool> closed_{false};
  std::mutex mutex_;
  std::set<Stream*> streams_;  // of processes beside the session; guarded by mutex_
};

/// Writes the shell down, commits and starts a second container from both. Errors: NotForkable.
Fork fork_container(Container& container);
/// Environment::snapshot and Backend::open. Errors also: NotForkable, StoreError.
SnapshotId snapshot_container(Container& container);
std::shared_ptr<Container> open_snapshot(const std::shared_ptr<Core>& core, const SnapshotId& id);

/// Wraps a started container.
EnvironmentPtr make_environment(std::shared_ptr<Container> container);

}  // namespace espalier::envs::container
