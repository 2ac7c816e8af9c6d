#include "envs/sandbox/snapshot.h"

#include <optional>

#include "common/error.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/snapshot_store.h"

namespace espalier::envs::sandbox {
namespace {

/// One snapshot in progress. The reactor asks the spawner for the layers that the store lacks; the
/// worker reads, compresses and writes.
class Snapshotting : public std::enable_shared_from_this<Snapshotting> {
 public:
  Snapshotting(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done)
      : core_(state->core), sandbox_(state->sandbox), done_(std::move(done)) {}

  void begin() {
    if (core_->options.snapshot_dir.empty())
      throw common::SandboxError("snapshot: the backend was made without a snapshot directory");
    dump_shell(sandbox_, [self = shared_from_this()](common::Result<std::string> shell) {
      if (!shell.ok()) return self->done_(shell.error());
      const SandboxSeed& seed = self->sandbox_->seed();
      self->manifest_.shell = shell.value();
      self->manifest_.spec = seed.spec;
      self->manifest_.spec.files.clear();
      self->manifest_.base = seed.base;
      self->manifest_.last_exit_code = self->sandbox_->last_exit_code();
      self->try_export(false);
    });
  }

 private:
  struct Part {
    LayerPtr layer;
    bool frozen = true;  // the upper is not: what it holds now is not what it will
    StoredLayerPtr stored;
    Fd pipe;
  };

  void try_export(bool all) {
    try {
      export_layers(all);
    } catch (const common::Error&) {
      done_(std::current_exception());
    }
  }

  /// Nothing writes to the upper meanwhile: shell and init alone are there, and idle.
  void export_layers(bool all) {
    const SandboxSeed& seed = sandbox_->seed();
    parts_.clear();
    error_ = nullptr;
    retried_ = all;
    for (size_t i = seed.layers.size() - seed.image_layers; i-- > 0;)
      add_part(seed.layers[i], true, all ? nullptr : seed.layers[i]->stored);
    add_part(sandbox_->upper(), false, nullptr);
    waiting_ = 1;
    for (Part& part : parts_)
      if (!part.stored) export_layer(&part);
    core_->worker.post([self = shared_from_this()] {
      auto result = self->write();
      self->core_->post([self, result = std::move(result)]() mutable {
        self->result_ = std::move(result);
        self->part_done();
      });
    });
  }

  void add_part(const LayerPtr& layer, bool frozen, StoredLayerPtr stored) {
    parts_.emplace_back();
    parts_.back().layer = layer;
    parts_.back().frozen = frozen;
    parts_.back().stored = std::move(stored);
  }

  void export_layer(Part* part) {
    Pipe pipe = make_pipe(false, false);
    part->pipe = std::move(pipe.read);
    std::vector<Fd> ends;
    ends.push_back(std::move(pipe.write));
    wire::LayerRequest request{};
    request.header.op = wire::SpawnerOp::export_layer;
    request.header.id = part->layer->id();
    const SandboxSeed& seed = sandbox_->seed();
    request.base_count = uint32_t(seed.image_layers);
    std::string message = bytes_of(request);
    for (size_t i = seed.layers.size() - seed.image_layers; i < seed.layers.size(); ++i)
      message += bytes_of(uint64_t{seed.layers[i]->id()});
    ++waiting_;
    core_->spawner.call(std::move(message), std::move(ends),
                        [self = shared_from_this()](common::Result<SpawnerReplyFds> r) {
                          if (!r.ok()) self->error_ = r.error();
                          self->part_done();
                        });
  }

  /// On the worker's thread. nullopt: the store has lost a layer that it had.
  common::Result<std::optional<SnapshotId>> write() {
    try {
      SnapshotWriter writer(core_->options.snapshot_dir);
      std::vector<StoredLayerPtr> layers;
      for (Part& part : parts_) {
        if (part.pipe) part.stored = writer.add(part.pipe.get());
        part.pipe.reset();
        if (!part.stored->id.empty() && !writer.has(part.stored->id))
          return std::optional<SnapshotId>();
        layers.push_back(part.stored);
      }
      return std::optional<SnapshotId>(writer.finish(manifest_, layers));
    } catch (const common::Error& e) {
      cut_short_ = dynamic_cast<const PackCutShort*>(&e);
      for (Part& part : parts_) part.pipe.reset();
      return std::current_exception();
    }
  }

  void part_done() {
    if (--waiting_ > 0) return;
    // Where the store gave up, the spawner could not go on writing; where the spawner did, the
    // store got half a layer.
    if (!result_->ok() && !(cut_short_ && error_)) return done_(result_->error());
    if (error_) return done_(error_);
    if (!result_->value() && !retried_) return try_export(true);
    if (!result_->value())
      return done_(std::make_exception_ptr(common::StoreError(
          "snapshot: layers vanish from " + core_->options.snapshot_dir.string())));
    for (const Part& part : parts_)
      if (part.frozen) part.layer->stored = part.stored;
    done_(*result_->value());
  }

  std::shared_ptr<Core> core_;
  std::shared_ptr<Sandbox> sandbox_;
  Completion<SnapshotId> done_;
  SnapshotManifest manifest_;
  std::vector<Part> parts_;  // lowest first
  size_t waiting_ = 0;
  bool retried_ = false, cut_short_ = false;
  std::exception_ptr error_;
  std::optional<common::Result<std::optional<SnapshotId>>> result_;
};

}  // namespace

void take_snapshot(const std::shared_ptr<EnvironmentState>& state, Completion<SnapshotId> done) {
  std::make_shared<Snapshotting>(state, std::move(done))->begin();
}

}  // namespace espalier::envs::sandbox
