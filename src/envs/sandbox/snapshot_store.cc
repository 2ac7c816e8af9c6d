#include "envs/sandbox/snapshot_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <future>
#include <set>
#include <thread>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLayerSuffix = ".zst";
constexpr const char* kManifestSuffix = ".json";
constexpr auto kCollectTimeout = std::chrono::seconds(10);
constexpr auto kCollectPause = std::chrono::milliseconds(20);

bool is_id(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

void require_id(const std::string& what, const std::string& id) {
  if (!is_id(id))
    throw common::StoreError("open the " + what + " '" + id + "': an id has 64 hexadecimal digits");
}

fs::path layers_of(const fs::path& directory) { return directory / "layers"; }

/// The ids of a directory's files with this suffix, sorted; of one that is not there: none.
std::vector<std::string> ids_in(const fs::path& directory, const std::string& suffix) {
  std::vector<std::string> ids;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    std::string name = entry.path().filename().string();
    if (name.ends_with(suffix) && is_id(name.substr(0, name.size() - suffix.size())))
      ids.push_back(name.substr(0, name.size() - suffix.size()));
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw common::StoreError("list " + directory.string() + ": " + error.message());
  std::sort(ids.begin(), ids.end());
  return ids;
}

Fd open_lock(const fs::path& directory) {
  fs::path path = directory / "lock";
  Fd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
  if (!fd) throw common::StoreError("open " + path.string() + ": " + std::strerror(errno));
  return fd;
}

void lock_for_writing(const Fd& fd, const fs::path& directory) {
  while (flock(fd.get(), LOCK_SH)) {
    if (errno != EINTR)
      throw common::StoreError("lock " + directory.string() + ": " + std::strerror(errno));
  }
}

void lock_for_collecting(const Fd& fd, const fs::path& directory) {
  auto deadline = std::chrono::steady_clock::now() + kCollectTimeout;
  while (flock(fd.get(), LOCK_EX | LOCK_NB)) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      throw common::StoreError("lock " + directory.string() + ": " + std::strerror(errno));
    if (std::chrono::steady_clock::now() > deadline)
      throw common::StoreError("tidy " + directory.string() +
                               ": snapshots are being written all the time; try again when the "
                               "run is at rest");
    std::this_thread::sleep_for(kCollectPause);
  }
}

/// Several syncs at once cost the disk little more than one.
void all_at_once(const std::vector<std::function<void()>>& steps) {
  std::vector<std::future<void>> others;
  for (size_t i = 1; i < steps.size(); ++i)
    others.push_back(std::async(std::launch::async, steps[i]));
  std::exception_ptr error;
  try {
    if (!steps.empty()) steps.front()();
  } catch (const common::Error&) {
    error = std::current_exception();
  }
  for (auto& other : others) {
    try {
      other.get();
    } catch (const common::Error&) {
      error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

bool remove_file(const fs::path& path) {
  if (unlink(path.c_str()) == 0) return true;
  if (errno == ENOENT) return false;
  throw common::StoreError("remove " + path.string() + ": " + std::strerror(errno));
}

void remove_leftovers(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().filename().string().starts_with(kStagedPrefix)) remove_file(entry.path());
}

}  // namespace

SnapshotStore::SnapshotStore(fs::path directory) : directory_(std::move(directory)) {}

fs::path SnapshotStore::manifest_path(const SnapshotId& id) const {
  return directory_ / (id.hex + kManifestSuffix);
}
fs::path SnapshotStore::layer_path(const std::string& id) const {
  return layers_of(directory_) / (id + kLayerSuffix);
}

SnapshotManifest SnapshotStore::read(const SnapshotId& id) const {
  require_id("snapshot", id.hex);
  SnapshotManifest manifest = read_manifest(manifest_path(id), id);
  for (const std::string& layer : manifest.layers) require_id("layer", layer);
  return manifest;
}

StoredLayerPtr SnapshotStore::layer(const std::string& id) const {
  require_id("layer", id);
  return read_layer_index(layer_path(id), id);
}

std::vector<SnapshotId> SnapshotStore::list() const {
  std::vector<SnapshotId> out;
  for (const std::string& id : ids_in(directory_, kManifestSuffix)) out.push_back({id});
  return out;
}

bool SnapshotStore::remove(const SnapshotId& id) {
  require_id("snapshot", id.hex);
  return remove_file(manifest_path(id));
}

SnapshotStore::Collected SnapshotStore::collect() {
  Collected collected;
  if (!fs::exists(directory_)) return collected;
  Fd lock = open_lock(directory_);
  lock_for_collecting(lock, directory_);
  std::set<std::string> named;
  for (const SnapshotId& id : list())
    for (const std::string& layer : read(id).layers) named.insert(layer);
  remove_leftovers(directory_);
  remove_leftovers(layers_of(directory_));
  for (const std::string& id : ids_in(layers_of(directory_), kLayerSuffix)) {
    if (named.count(id)) {
      ++collected.kept;
      continue;
    }
    std::error_code error;
    uint64_t bytes = fs::file_size(layer_path(id), error);
    if (!remove_file(layer_path(id))) continue;
    ++collected.layers;
    collected.bytes += error ? 0 : bytes;
  }
  return collected;
}

void SnapshotStore::verify(const SnapshotId& id) const {
  SnapshotManifest manifest = read(id);
  std::vector<StoredLayerPtr> layers;
  for (const std::string& name : manifest.layers) {
    verify_layer_file(layer_path(name), name);
    layers.push_back(layer(name));
  }
  if (state_digest(layers) != manifest.state)
    throw common::StoreError("check the snapshot " + manifest_path(id).string() +
                             ": its layers show another state");
}

// ---- writing ----

SnapshotWriter::SnapshotWriter(const fs::path& directory)
    : directory_(directory), store_(directory) {
  std::error_code error;
  fs::create_directories(layers_of(directory), error);
  if (error)
    throw common::StoreError("make " + layers_of(directory).string() + ": " + error.message());
  lock_ = open_lock(directory);
  lock_for_writing(lock_, directory);
}

StoredLayerPtr SnapshotWriter::add(int pack_fd) {
  LayerWritten written = write_layer_file(pack_fd, layers_of(directory_));
  if (written.file && !is_staged(written.layer->id) && !is_sound(written.layer->id))
    staged_.push_back({written.layer->id, std::move(*written.file)});
  return written.layer;
}

bool SnapshotWriter::is_staged(const std::string& layer) const {
  return std::any_of(staged_.begin(), staged_.end(),
                     [&](const Staged& staged) { return staged.layer == layer; });
}

/// A damaged file is as good as none: it is written anew.
bool SnapshotWriter::is_sound(const std::string& layer) const {
  if (access(store_.layer_path(layer).c_str(), F_OK)) return false;
  try {
    store_.layer(layer);
    return true;
  } catch (const common::StoreError&) {
    return false;
  }
}

bool SnapshotWriter::has(const std::string& layer) const {
  return is_staged(layer) || access(store_.layer_path(layer).c_str(), F_OK) == 0;
}

/// The same state may lie there already, perhaps cut into other layers.
bool SnapshotWriter::is_there(const SnapshotId& id) const {
  if (access(store_.manifest_path(id).c_str(), F_OK)) return false;
  try {
    for (const std::string& layer : store_.read(id).layers)
      if (access(store_.layer_path(layer).c_str(), F_OK)) return false;
    return true;
  } catch (const common::StoreError&) {
    return false;
  }
}

SnapshotId SnapshotWriter::finish(SnapshotManifest manifest,
                                  const std::vector<StoredLayerPtr>& layers) {
  manifest.state = state_digest(layers);
  manifest.layers.clear();
  for (const StoredLayerPtr& layer : layers)
    if (!layer->id.empty()) manifest.layers.push_back(layer->id);
  SnapshotId id = snapshot_id(manifest);
  if (is_there(id)) return id;
  StagedFile file(directory_);
  file.append(encode_manifest(manifest));
  std::vector<std::function<void()>> syncs = {[&] { file.sync(); }};
  for (Staged& staged : staged_) syncs.push_back([&staged] { staged.file.sync(); });
  all_at_once(syncs);
  for (Staged& staged : staged_) staged.file.rename_to(store_.layer_path(staged.layer));
  file.rename_to(store_.manifest_path(id));
  syncs = {[&] { sync_directory(directory_); }};
  if (!staged_.empty()) syncs.push_back([&] { sync_directory(layers_of(directory_)); });
  all_at_once(syncs);
  staged_.clear();
  return id;
}

}  // namespace espalier::envs::sandbox
