#include "envs/container/backend.h"

#include <functional>
#include <utility>

#include "common/error.h"
#include "envs/container/container.h"

namespace espalier::envs {
namespace container {
namespace {

/// Runs a blocking operation on a thread of its own and completes on the reactor's. `live` keeps
/// what the operation works on.
template <class T>
void start_operation(std::shared_ptr<Core> core, std::function<T()> operation, Completion<T> done) {
  Threads& threads = core->threads;
  threads.post(
      [core = std::move(core), operation = std::move(operation), done = std::move(done)]() mutable {
        auto result = std::make_shared<std::optional<common::Result<T>>>();
        try {
          result->emplace(operation());
        } catch (const common::Error&) {
          result->emplace(std::current_exception());
        } catch (const std::exception& e) {
          // What the engine sent is not of the form that its API promises.
          result->emplace(std::make_exception_ptr(
              common::SandboxError(std::string("the container engine's answer: ") + e.what())));
        }
        operation = nullptr;
        core->reactor.post([result, done = std::move(done)] { done(std::move(**result)); });
      });
}

class ContainerEnvironment : public Environment {
 public:
  explicit ContainerEnvironment(std::shared_ptr<Container> container)
      : container_(std::move(container)) {
    ++container_->core()->live;
  }
  ~ContainerEnvironment() override {
    auto core = container_->core();
    --core->live;
    container_->close();
    core->threads.post([container = std::move(container_)] { container->remove(); });
  }

  void run(std::string command, Deadline deadline, Completion<Observation> done) override {
    container_->arm();
    start<Observation>(std::move(done), [command = std::move(command), deadline](Container& c) {
      return c.run(command, deadline);
    });
  }

  void interrupt() override { container_->interrupt(); }

  void fork(Completion<Fork> done) override { start<Fork>(std::move(done), fork_container); }

  void snapshot(Completion<SnapshotId> done) override {
    start<SnapshotId>(std::move(done), snapshot_container);
  }

  void exec(ExecSpec spec, Deadline deadline, Completion<Observation> done) override {
    start<Observation>(std::move(done), [spec = std::move(spec), deadline](Container& c) {
      return c.exec(spec, deadline);
    });
  }

  void put_file(std::string path, std::string content, unsigned mode,
                Completion<common::Done> done) override {
    start<common::Done>(std::move(done),
                        [path = std::move(path), content = std::move(content), mode](Container& c) {
                          c.put_file(path, content, mode);
                          return common::Done{};
                        });
  }

  void put_tree(std::string path, const std::filesystem::path& from,
                Completion<common::Done> done) override {
    start<common::Done>(std::move(done), [path = std::move(path), from](Container& c) {
      c.put_tree(path, from);
      return common::Done{};
    });
  }

  std::optional<std::string> read_file(const std::string& path, size_t max_bytes) override {
    try {
      return container_->read_file(path, max_bytes);
    } catch (const common::SandboxError&) {
      return std::nullopt;
    }
  }

 private:
  template <class T>
  void start(Completion<T> done, std::function<T(Container&)> operation) {
    start_operation<T>(
        container_->core(),
        [container = container_, operation = std::move(operation)] {
          return operation(*container);
        },
        std::move(done));
  }

  std::shared_ptr<Container> container_;
};

class ContainerBackend : public Backend {
 public:
  explicit ContainerBackend(ContainerOptions options)
      : core_(std::make_shared<Core>(std::move(options))) {}
  ~ContainerBackend() override { core_->close(); }

  std::string name() const override { return "container"; }
  size_t live_environments() const override { return core_->live; }

  void create(EnvironmentSpec spec, Completion<EnvironmentPtr> done) override {
    start_operation<EnvironmentPtr>(
        core_,
        [core = core_, spec = std::move(spec)] {
          core->require_room("start a container");
          Seed seed;
          seed.spec = spec;
          seed.image = core->find_image(spec.image);
          return make_environment(Container::start(core, std::move(seed)));
        },
        std::move(done));
  }

  void open(SnapshotId snapshot, Completion<EnvironmentPtr> done) override {
    start_operation<EnvironmentPtr>(
        core_, [core = core_, snapshot] { return make_environment(open_snapshot(core, snapshot)); },
        std::move(done));
  }

 private:
  std::shared_ptr<Core> core_;
};

}  // namespace

EnvironmentPtr make_environment(std::shared_ptr<Container> container) {
  return std::make_unique<ContainerEnvironment>(std::move(container));
}

}  // namespace container

std::unique_ptr<Backend> make_container_backend(ContainerOptions options) {
  return std::make_unique<container::ContainerBackend>(std::move(options));
}

}  // namespace espalier::envs
