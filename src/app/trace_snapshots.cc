#include "app/trace_snapshots.h"

#include <sys/stat.h>

#include <map>
#include <set>

#include "app/run_directory.h"
#include "envs/sandbox/snapshot_store.h"
#include "tree/journal_lock.h"
#include "tree/run_trees.h"

namespace espalier::app {

namespace {

namespace fs = std::filesystem;
using envs::sandbox::IndexEntry;
using envs::sandbox::SnapshotStore;
using rollout::KeepSnapshots;

uint64_t bytes_below(const fs::path& directory) {
  uint64_t bytes = 0;
  std::error_code error;
  for (fs::recursive_directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error))
    if (it->is_regular_file(error)) bytes += it->file_size(error);
  return bytes;
}

std::set<std::string> wanted(const fs::path& run, KeepSnapshots keep) {
  std::set<std::string> ids;
  if (keep == KeepSnapshots::none) return ids;
  tree::visit_trees(run, [&](tree::RunTree&& found) {
    const auto children = found.tree.children();
    for (size_t i = 0; i < children.size(); ++i) {
      const std::string& id = found.tree.nodes[i].snapshot;
      if (!id.empty() && (keep == KeepSnapshots::all || children[i].size() > 1)) ids.insert(id);
    }
    return true;
  });
  return ids;
}

void hide_below(std::map<std::string, IndexEntry>& files, const std::string& directory) {
  const std::string prefix = directory + "/";
  std::erase_if(files, [&](const auto& file) { return file.first.starts_with(prefix); });
}

/// What the layers show together.
std::map<std::string, IndexEntry> files_of(const SnapshotStore& store, const std::string& id) {
  std::map<std::string, IndexEntry> files;
  for (const std::string& layer : store.read({id}).layers) {
    if (layer.empty()) continue;
    for (const IndexEntry& entry : store.layer(layer)->index.entries) {
      if (entry.flags & envs::wire::kPackOpaque) hide_below(files, entry.path);
      files[entry.path] = entry;
    }
  }
  std::erase_if(files, [](const auto& file) { return S_ISCHR(file.second.mode); });  // whiteouts
  return files;
}

bool same(const IndexEntry& a, const IndexEntry& b) {
  return a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && a.size == b.size &&
         a.content == b.content && a.link == b.link;
}

}  // namespace

SnapshotsDropped drop_snapshots(const fs::path& run, rollout::KeepSnapshots keep) {
  tree::check_run(run);
  const RunDirectory directory{run};
  SnapshotsDropped result;
  std::error_code error;
  if (!fs::is_directory(directory.snapshots(), error)) return result;
  const bool journal = fs::is_directory(directory.journal(), error);
  const auto lock = journal ? std::make_unique<tree::JournalLock>(directory.journal()) : nullptr;
  SnapshotStore store(directory.snapshots());
  if (keep == KeepSnapshots::all) {
    result.kept = store.list().size();
    return result;
  }
  const std::set<std::string> keeping = wanted(run, keep);
  const uint64_t before = bytes_below(directory.snapshots());
  for (const envs::SnapshotId& id : store.list()) {
    if (keeping.contains(id.hex)) {
      ++result.kept;
    } else {
      result.dropped += store.remove(id);
    }
  }
  store.collect();
  const uint64_t after = bytes_below(directory.snapshots());
  result.bytes_freed = before - std::min(before, after);
  return result;
}

std::vector<std::string> changed_files(const StoredState& a, const StoredState& b) {
  const auto before = files_of(SnapshotStore(a.store), a.id);
  const auto after = files_of(SnapshotStore(b.store), b.id);
  std::vector<std::string> changes;
  for (const auto& [path, entry] : before)
    if (!after.contains(path)) changes.push_back("- " + path);
  for (const auto& [path, entry] : after) {
    const auto found = before.find(path);
    if (found == before.end()) {
      changes.push_back("+ " + path);
    } else if (!same(found->second, entry)) {
      changes.push_back("~ " + path);
    }
  }
  return changes;
}

}  // namespace espalier::app
