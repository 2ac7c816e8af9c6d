#include "envs/sandbox/core.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <future>

#include "common/error.h"
#include "envs/sandbox/flattener.h"
#include "envs/sandbox/image_root.h"
#include "envs/sandbox/leftovers.h"
#include "envs/sandbox/sandbox.h"

namespace espalier::envs::sandbox {
namespace {

constexpr size_t kKeepers = 2;
constexpr auto kCloseTimeout = std::chrono::seconds(10);

/// Six descriptors a sandbox: the usual soft limit of 1024 is too low for hundreds of them.
const SandboxOptions& with_raised_file_limit(const SandboxOptions& options) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  return options;
}

std::vector<int> allowed_processors() {
  std::vector<int> processors;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &allowed)) processors.push_back(cpu);
  return processors;
}

}  // namespace

Layer::~Layer() {
  if (auto core = core_.lock()) core->post([core, id = id_] { core->spawner.drop(id); });
}

Core::Core(SandboxOptions options_)
    : options(with_raised_file_limit(options_)),
      scratch(std::in_place, "espalier-sandbox"),
      spawner({options.uid_base, options.force_disk_upper, scratch->path(),
               prepare_image_cache(options.image_cache)}),
      cgroups(!options.force_rlimits),
      processors(allowed_processors()),
      cradles(&spawner, &cgroups, &reactor, processors),
      images(std::make_unique<ImageRoots>(*this)),
      flattener(std::make_unique<Flattener>(this)) {
  if (!spawner.disk_upper()) scratch.reset();
  worker.post([] { sweep_leftovers(true); });
  post([this] {
    spawner.attach(&reactor);
    for (size_t i = 0; spawner.max_depth() && i < kKeepers; ++i)
      keepers.push_back(spawner.start_helper(wire::SpawnerOp::keeper, {}));
  });
}

Core::~Core() = default;

void Core::add_layer(std::string pack, Completion<LayerPtr> done) {
  LayerPtr layer = new_layer();
  wire::LayerRequest request{};
  request.header.op = wire::SpawnerOp::add_layer;
  request.header.id = layer->id();
  // Whole pages a file, and room for directories.
  size_t entries = 16;
  for (size_t at = 0; at < pack.size(); ++entries) {
    wire::PackEntry entry;
    std::memcpy(&entry, pack.data() + at, sizeof entry);
    at += sizeof entry + entry.path_bytes + entry.xattr_bytes + entry.size;
  }
  request.bytes = pack.size() + (entries + 16) * 8192;
  request.inodes = entries + 64;
  std::vector<Fd> fds;
  fds.push_back(make_memory_file("espalier-layer", pack));
  spawner.call(std::string(reinterpret_cast<const char*>(&request), sizeof request), std::move(fds),
               [layer, done = std::move(done)](common::Result<SpawnerReplyFds> r) {
                 if (r.ok()) return done(layer);
                 done(r.error());
               });
}

void Core::find_base(const EnvironmentSpec& spec, Completion<BaseImage> done) {
  images->get(spec.image, [this, done = std::move(done)](common::Result<ImageRootPtr> image) {
    post([done, image]() mutable {
      if (!image.ok()) return done(image.error());
      done(base_of(image.value()));
    });
  });
}

void Core::after_delay(std::function<void()> go) {
  if (options.extra_command_delay_ms_max <= 0) return go();
  double share = common::uniform(common::RngKey{options.delay_seed}, delays++);
  auto delay =
      std::chrono::duration<double, std::milli>(share * options.extra_command_delay_ms_max);
  reactor.call_at(Clock::now() + std::chrono::duration_cast<Clock::duration>(delay), std::move(go));
}

void Core::close() {
  images->stop();
  std::mutex mutex;
  std::condition_variable changed;
  bool empty = false;
  std::function<void()> check = [&] {
    if (!sandboxes.empty()) return;
    std::lock_guard lock(mutex);
    empty = true;
    changed.notify_one();
  };
  post([&] {
    closing = true;
    auto all = sandboxes;
    for (const auto& sandbox : all) sandbox->kill(check);
    check();
  });
  {
    std::unique_lock lock(mutex);
    changed.wait_for(lock, kCloseTimeout, [&] { return empty; });
  }
  std::promise<void> detached;
  post([&] {
    check = [] {};
    cradles.close();
    keepers.clear();
    spawner.detach();
    detached.set_value();
  });
  detached.get_future().wait();
  worker.join();  // what a thread of it works on may hold this: it must not be the last to do so
  reactor.stop();
  spawner.stop();
}

}  // namespace espalier::envs::sandbox
