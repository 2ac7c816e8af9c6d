#include "envs/sandbox/snapshot.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

std::string read_all(int fd) {
  std::string out;
  char buffer[64 * 1024];
  for (;;) {
    ssize_t n = read(fd, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return out;
    out.append(buffer, size_t(n));
  }
}

/// One snapshot in progress. The reactor asks the spawner for the layers, the worker reads and
/// writes.
class Snapshotting : public std::enable_shared_from_this<Snapshotting> {
 public:
  Snapshotting(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done)
      : core_(state->core), sandbox_(state->sandbox), done_(std::move(done)) {}

  void begin() {
    if (core_->options.snapshot_dir.empty())
      throw common::SandboxError("snapshot: the backend was made without a snapshot directory");
    dump_shell(sandbox_, [self = shared_from_this()](common::Result<std::string> shell) {
      if (!shell.ok()) return self->done_(shell.error());
      self->content_.shell = shell.value();
      self->content_.spec = self->sandbox_->seed().spec;
      self->content_.spec.files.clear();
      self->content_.last_exit_code = self->sandbox_->last_exit_code();
      self->export_layers();
    });
  }

 private:
  void export_layers() {
    // Bottom first; nothing writes to the upper meanwhile: shell and init alone are there, and
    // idle.
    std::vector<LayerPtr> layers = sandbox_->seed().layers;
    std::reverse(layers.begin(), layers.end());
    layers.push_back(sandbox_->upper());
    waiting_ = layers.size() + 1;
    auto pipes = std::make_shared<std::vector<Fd>>();
    for (const LayerPtr& layer : layers) {
      Pipe pipe = make_pipe(false, false);
      pipes->push_back(std::move(pipe.read));
      std::vector<Fd> ends;
      ends.push_back(std::move(pipe.write));
      core_->spawner.call(wire::SpawnerOp::export_layer, layer->id(), std::move(ends),
                          [self = shared_from_this()](common::Result<SpawnerReplyFds> r) {
                            if (!r.ok()) self->error_ = r.error();
                            self->part_done();
                          });
    }
    core_->worker.post([self = shared_from_this(), pipes] {
      for (const Fd& pipe : *pipes) self->packs_.push_back(read_all(pipe.get()));
      self->core_->post([self] { self->part_done(); });
    });
  }

  void part_done() {
    if (--waiting_ > 0) return;
    if (error_) return done_(error_);
    core_->worker.post([self = shared_from_this()] {
      auto result = self->write();
      self->core_->post([self, result] { self->done_(result); });
    });
  }

  common::Result<SnapshotId> write() {
    try {
      std::vector<std::vector<PackItem>> layers;
      for (const std::string& pack : packs_) layers.push_back(parse_pack(pack));
      content_.items = merge_layers(layers);
      return write_snapshot(core_->options.snapshot_dir, content_);
    } catch (const common::Error&) {
      return std::current_exception();
    }
  }

  std::shared_ptr<Core> core_;
  std::shared_ptr<Sandbox> sandbox_;
  Completion<SnapshotId> done_;
  SnapshotContent content_;
  std::vector<std::string> packs_;
  size_t waiting_ = 0;
  std::exception_ptr error_;
};

void start_from(const std::shared_ptr<Core>& core, const SnapshotContent& content, LayerPtr layer,
                Completion<EnvironmentPtr> done) {
  SandboxSeed seed;
  seed.spec = content.spec;
  seed.layers.push_back(std::move(layer));
  seed.restore = content.shell;
  seed.last_exit_code = content.last_exit_code;
  start_environment(core, std::move(seed), std::move(done));
}

}  // namespace

void take_snapshot(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done) {
  std::make_shared<Snapshotting>(state, std::move(done))->begin();
}

void open_snapshot(const std::shared_ptr<Core>& core, SnapshotId id,
                   Completion<EnvironmentPtr> done) {
  if (core->options.snapshot_dir.empty())
    throw common::SandboxError(
        "open a snapshot: the backend was made without a snapshot directory");
  core->worker.post([core, id, done = std::move(done)] {
    auto content = std::make_shared<SnapshotContent>();
    std::string pack;
    try {
      *content = read_snapshot(core->options.snapshot_dir, id);
      for (const PackItem& item : content->items) append_item(&pack, item);
    } catch (const common::Error&) {
      return core->post([done, error = std::current_exception()] { done(error); });
    }
    core->post([core, content, pack = std::move(pack), done] {
      core->add_layer(pack, [core, content, done](common::Result<LayerPtr> layer) {
        if (!layer.ok()) return done(layer.error());
        start_from(core, *content, std::move(layer.value()), done);
      });
    });
  });
}

}  // namespace espalier::envs::sandbox
