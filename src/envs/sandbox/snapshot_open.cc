// Backend::open: stored layers become live ones, and a sandbox starts over them.
#include <fcntl.h>

#include <algorithm>

#include "common/error.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/sandbox_detail.h"
#include "envs/sandbox/snapshot.h"
#include "envs/sandbox/snapshot_store.h"

namespace espalier::envs::sandbox {
namespace {

constexpr int kPipeBytes = 1 << 20;

/// One snapshot being opened; each step starts the next. Kept alive by the callbacks.
class Opening : public std::enable_shared_from_this<Opening> {
 public:
  Opening(std::shared_ptr<Core> core, SnapshotId id, Completion<EnvironmentPtr> done)
      : core_(std::move(core)),
        store_(core_->options.snapshot_dir),
        id_(std::move(id)),
        done_(std::move(done)) {}

  void begin() {
    on_worker([](Opening& self) { self.manifest_ = self.store_.read(self.id_); },
              [](Opening& self) { self.find_base(); });
  }

 private:
  /// A live layer of one stored layer, or of the lowest of a deep stack together.
  struct Part {
    std::vector<std::string> names;  // lowest first
    std::vector<StoredLayerPtr> stored;
    LayerPtr layer;
    Fd pipe;
  };
  using Step = void (*)(Opening&);

  /// Runs `work` on the worker's thread, then `next` on the reactor's; errors end the opening.
  void on_worker(Step work, Step next) {
    core_->worker.post([self = shared_from_this(), work, next] {
      std::exception_ptr error;
      try {
        work(*self);
      } catch (const common::Error&) {
        error = std::current_exception();
      }
      self->core_->post([self, next, error] {
        if (error) return self->done_(error);
        self->on_reactor(next);
      });
    });
  }

  void on_reactor(Step step) {
    try {
      step(*this);
    } catch (const common::Error&) {
      done_(std::current_exception());
    }
  }

  void find_base() {
    core_->find_base(manifest_.spec, [self = shared_from_this()](common::Result<BaseImage> base) {
      if (!base.ok()) return self->done_(base.error());
      self->base_ = std::move(base.value());
      self->on_reactor([](Opening& self) { self.check_base(); });
    });
  }

  void check_base() {
    if (base_.identity != manifest_.base)
      throw common::StoreError("open the snapshot " + store_.manifest_path(id_).string() +
                               ": it was taken over the image '" + manifest_.spec.image + "' as " +
                               manifest_.base + ", which is " + base_.identity +
                               " here; open it on a machine that has the same one");
    divide();
    on_worker(
        [](Opening& self) {
          for (Part& part : self.parts_)
            if (!part.layer)
              for (const std::string& name : part.names)
                part.stored.push_back(self.store_.layer(name));
        },
        [](Opening& self) { self.make_layers(); });
  }

  void divide() {
    std::vector<std::string>& names = manifest_.layers;
    size_t together = names.size() > kMaxDepth ? names.size() - kMaxDepth + kMergedLayers : 1;
    for (size_t i = 0; i < names.size();) {
      Part& part = parts_.emplace_back();
      size_t count = i == 0 ? together : 1;
      part.names.assign(names.begin() + ptrdiff_t(i), names.begin() + ptrdiff_t(i + count));
      // A stack may hold a layer twice; overlay refuses the same directory twice.
      auto live = core_->opened.find(names[i]);
      if (count == 1 && live != core_->opened.end() &&
          std::count(names.begin(), names.end(), names[i]) == 1)
        part.layer = live->second.lock();
      i += count;
    }
  }

  void make_layers() {
    waiting_ = 1;
    for (Part& part : parts_)
      if (!part.layer) make_layer(&part);
    core_->worker.post([self = shared_from_this()] {
      std::exception_ptr error;
      for (Part& part : self->parts_) {
        try {
          if (part.pipe && !error) self->stream(part);
        } catch (const common::Error&) {
          error = std::current_exception();
        }
        part.pipe.reset();
      }
      self->core_->post([self, error] {
        self->damage_ = error;
        self->part_done();
      });
    });
  }

  void make_layer(Part* part) {
    part->layer = core_->new_layer();
    wire::LayerRequest request{};
    request.header.op = wire::SpawnerOp::add_layer;
    request.header.id = part->layer->id();
    request.flags = wire::kLayerEnded;
    if (part->names.size() == 1) request.flags |= wire::kLayerExact;
    request.base_count = uint32_t(base_.layers.size());
    request.inodes = 64;
    for (const StoredLayerPtr& stored : part->stored) {
      // Whole pages a file, and room for directories and attributes.
      request.bytes += stored->index.data_bytes;
      request.inodes += 2 * stored->index.entries.size();
      for (const IndexEntry& entry : stored->index.entries)
        request.inodes += entry.xattrs.size() / 512;
    }
    request.bytes += request.inodes * 4096;
    std::string message = bytes_of(request);
    for (const LayerPtr& layer : base_.layers) message += bytes_of(uint64_t{layer->id()});
    Pipe pipe = make_pipe(false, false);
    fcntl(pipe.write.get(), F_SETPIPE_SZ, kPipeBytes);
    part->pipe = std::move(pipe.write);
    std::vector<Fd> ends;
    ends.push_back(std::move(pipe.read));
    ++waiting_;
    core_->spawner.call(std::move(message), std::move(ends),
                        [self = shared_from_this()](common::Result<SpawnerReplyFds> r) {
                          if (!r.ok()) self->error_ = r.error();
                          self->part_done();
                        });
  }

  /// On the worker's thread. A reader that has gone says why in its reply.
  void stream(const Part& part) {
    for (const std::string& name : part.names)
      if (!read_layer_pack(store_.layer_path(name), part.pipe.get())) return;
  }

  void part_done() {
    if (--waiting_ > 0) return;
    if (damage_) return done_(damage_);
    if (error_) return done_(error_);
    on_reactor([](Opening& self) { self.start(); });
  }

  void start() {
    SandboxSeed seed;
    seed.spec = manifest_.spec;
    seed.base = base_.identity;
    seed.image_layers = base_.layers.size();
    seed.restore = manifest_.shell;
    seed.last_exit_code = manifest_.last_exit_code;
    seed.layers = base_.layers;
    std::erase_if(core_->opened, [](const auto& live) { return live.second.expired(); });
    for (Part& part : parts_) {
      seed.layers.insert(seed.layers.begin(), part.layer);
      if (part.names.size() != 1) continue;
      if (!part.stored.empty()) part.layer->stored = part.stored.front();
      core_->opened[part.names.front()] = part.layer;
    }
    start_environment(core_, std::move(seed), done_);
  }

  std::shared_ptr<Core> core_;
  SnapshotStore store_;
  SnapshotId id_;
  Completion<EnvironmentPtr> done_;
  SnapshotManifest manifest_;
  BaseImage base_;
  std::vector<Part> parts_;  // lowest first
  size_t waiting_ = 0;
  std::exception_ptr damage_, error_;
};

}  // namespace

void open_snapshot(const std::shared_ptr<Core>& core, SnapshotId id,
                   Completion<EnvironmentPtr> done) {
  if (core->options.snapshot_dir.empty())
    throw common::SandboxError(
        "open a snapshot: the backend was made without a snapshot directory");
  std::make_shared<Opening>(core, std::move(id), std::move(done))->begin();
}

}  // namespace espalier::envs::sandbox
