#include "envs/sandbox/local_environment.h"

#include <sys/stat.h>

#include "common/error.h"
#include "envs/sandbox/pack.h"
#include "envs/sandbox/snapshot.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {
namespace {

/// Posts an operation to the reactor's thread and turns what it throws into the completion's error.
template <class T, class Operation>
void post_operation(const std::shared_ptr<EnvironmentState>& state, Completion<T> done,
                    Operation operation) {
  state->core->post([state, done = std::move(done), operation = std::move(operation)]() mutable {
    try {
      if (state->closed) throw common::Cancelled("the environment was closed");
      operation(done);
    } catch (const common::Error&) {
      done(std::current_exception());
    }
  });
}

/// The same for operations in a session, which is awakened first.
template <class T, class Operation>
void post_session_operation(const std::shared_ptr<EnvironmentState>& state, Completion<T> done,
                            Operation operation) {
  post_operation<T>(
      state, std::move(done), [state, operation = std::move(operation)](auto& done) mutable {
        awaken(state, [done, operation =
                                 std::move(operation)](common::Result<common::Done> awake) mutable {
          if (!awake.ok()) return done(awake.error());
          try {
            operation(done);
          } catch (const common::Error&) {
            done(std::current_exception());
          }
        });
      });
}

/// Directory and name of an absolute path.
std::pair<std::string, std::string> split_path(const std::string& path) {
  size_t slash = path.rfind('/');
  if (path.empty() || path[0] != '/' || slash + 1 == path.size())
    throw common::SandboxError("write the file '" + path + "': not an absolute path of a file");
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

LocalEnvironment::LocalEnvironment(std::shared_ptr<EnvironmentState> state)
    : state_(std::move(state)) {
  ++state_->core->live;
}

LocalEnvironment::~LocalEnvironment() {
  --state_->core->live;
  auto core = state_->core;
  core->post([state = std::move(state_)] {
    state->closed = true;
    if (state->origin) {
      state->origin->leave();
    } else if (state->sandbox) {
      state->sandbox->kill(nullptr);
    }
    state->origin.reset();
    state->sandbox.reset();
  });
}

void LocalEnvironment::run(std::string command, Deadline deadline, Completion<Observation> done) {
  post_session_operation<Observation>(
      state_, std::move(done),
      [state = state_, command = std::move(command), deadline](auto& done) {
        state->sandbox->run(command, deadline, done);
      });
}

void LocalEnvironment::type(Typing typing, Completion<TerminalView> done) {
  post_session_operation<TerminalView>(state_, std::move(done),
                                       [state = state_, typing = std::move(typing)](auto& done) {
                                         state->sandbox->type(typing, done);
                                       });
}

void LocalEnvironment::interrupt() {
  state_->core->post([state = state_] {
    if (!state->closed) state->sandbox->interrupt();
  });
}

void LocalEnvironment::fork(Completion<Fork> done) {
  post_operation<Fork>(state_, std::move(done),
                       [state = state_](auto& done) { fork_environment(state, done); });
}

void LocalEnvironment::snapshot(Completion<SnapshotId> done) {
  post_session_operation<SnapshotId>(state_, std::move(done),
                                     [state = state_](auto& done) { take_snapshot(state, done); });
}

void LocalEnvironment::exec(ExecSpec spec, Deadline deadline, Completion<Observation> done) {
  post_session_operation<Observation>(
      state_, std::move(done), [state = state_, spec = std::move(spec), deadline](auto& done) {
        state->sandbox->exec(spec, deadline, done);
      });
}

void LocalEnvironment::put_file(std::string path, std::string content, unsigned mode,
                                Completion<common::Done> done) {
  post_session_operation<common::Done>(
      state_, std::move(done),
      [state = state_, path = std::move(path), content = std::move(content), mode](auto& done) {
        auto [directory, name] = split_path(path);
        PackItem item;
        item.path = name;
        item.mode = S_IFREG | (mode & 07777);
        item.content = content;
        std::string pack;
        append_item(&pack, item);
        state->sandbox->put(directory, false, make_memory_file("espalier-put", pack), done);
      });
}

void LocalEnvironment::put_tree(std::string path, const std::filesystem::path& from,
                                Completion<common::Done> done) {
  std::shared_ptr<Fd> file;
  try {
    split_path(path);
    file = std::make_shared<Fd>(make_memory_file(
        "espalier-put", from.empty() ? "" : pack_directory(from, "", wire::kSandboxRoot)));
  } catch (const common::Error&) {
    return state_->core->post(
        [done = std::move(done), error = std::current_exception()] { done(error); });
  }
  post_session_operation<common::Done>(state_, std::move(done),
                                       [state = state_, path = std::move(path), file](auto& done) {
                                         state->sandbox->put(path, true, std::move(*file), done);
                                       });
}

std::optional<std::string> LocalEnvironment::read_file(const std::string& path, size_t max_bytes) {
  auto sandbox = state_->sandbox;
  return sandbox ? sandbox->read_file(path, max_bytes) : std::nullopt;
}

EnvironmentPtr make_environment(const std::shared_ptr<Core>& core,
                                std::shared_ptr<Sandbox> sandbox) {
  auto state = std::make_shared<EnvironmentState>();
  state->core = core;
  state->sandbox = std::move(sandbox);
  return std::make_unique<LocalEnvironment>(std::move(state));
}

void start_environment(const std::shared_ptr<Core>& core, SandboxSeed seed,
                       Completion<EnvironmentPtr> done) {
  Sandbox::start(core, std::move(seed),
                 [core, done = std::move(done)](common::Result<std::shared_ptr<Sandbox>> r) {
                   if (!r.ok()) return done(r.error());
                   done(make_environment(core, std::move(r.value())));
                 });
}

}  // namespace espalier::envs::sandbox
