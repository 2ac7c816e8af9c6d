#include "envs/sandbox/backend.h"

#include "common/error.h"
#include "envs/limits.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/image_fittings.h"
#include "envs/sandbox/layer_cache.h"
#include "envs/sandbox/local_environment.h"
#include "envs/sandbox/snapshot.h"

namespace espalier::envs {
namespace sandbox {
namespace {

class SandboxBackend : public Backend {
 public:
  explicit SandboxBackend(SandboxOptions options)
      : core_(std::make_shared<Core>(std::move(options))), files_(core_) {}
  ~SandboxBackend() override { core_->close(); }

  std::string name() const override { return "sandbox"; }
  size_t live_environments() const override { return core_->live; }

  void create(EnvironmentSpec spec, Completion<EnvironmentPtr> done) override {
    if (full()) return refuse(done, too_many());
    try {
      check_limits(spec.limits, !core_->spawner.disk_upper());
      if (const std::string why = spec.network ? why_no_network() : ""; !why.empty())
        throw common::Unsupported("start a sandbox with the public network: " + why);
    } catch (const common::Error&) {
      return core_->post([done, error = std::current_exception()] { done(error); });
    }
    core_->images->get(spec.image, [this, spec, done](common::Result<ImageRootPtr> image) {
      if (image.ok()) return create_over(image.value(), spec, done);
      core_->post([done, error = image.error()] { done(error); });
    });
  }

  void open(SnapshotId snapshot, Completion<EnvironmentPtr> done) override {
    if (full()) return refuse(done, too_many());
    core_->post([core = core_, snapshot, done] {
      try {
        open_snapshot(core, snapshot, done);
      } catch (const common::Error&) {
        done(std::current_exception());
      }
    });
  }

 private:
  void create_over(ImageRootPtr image, const EnvironmentSpec& asked,
                   const Completion<EnvironmentPtr>& done) {
    EnvironmentSpec spec;
    try {
      spec = fitted(asked, image.get());
    } catch (const common::Error&) {
      return core_->post([done, error = std::current_exception()] { done(error); });
    }
    files_.get(spec, image, [core = core_, spec, image, done](common::Result<LayerPtr> layer) {
      if (!layer.ok()) return done(layer.error());
      SandboxSeed seed;
      seed.spec = spec;
      if (layer.value()) seed.layers.push_back(std::move(layer.value()));
      BaseImage base = base_of(image);
      seed.base = base.identity;
      seed.image_layers = base.layers.size();
      seed.layers.insert(seed.layers.end(), base.layers.begin(), base.layers.end());
      start_environment(core, std::move(seed), done);
    });
  }

  bool full() const { return core_->live >= core_->options.max_live; }
  std::string too_many() const {
    return "start a sandbox: " + std::to_string(core_->live) + " environments live; max_live is " +
           std::to_string(core_->options.max_live);
  }
  void refuse(const Completion<EnvironmentPtr>& done, const std::string& why) {
    core_->post([done, why] { done(std::make_exception_ptr(common::SandboxError(why))); });
  }

  std::shared_ptr<Core> core_;
  LayerCache files_;
};

}  // namespace
}  // namespace sandbox

std::unique_ptr<Backend> make_sandbox_backend(SandboxOptions options) {
  return std::make_unique<sandbox::SandboxBackend>(std::move(options));
}

}  // namespace espalier::envs
