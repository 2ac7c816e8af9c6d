// The image cache on disk: DIR/<format>/{layers/<hex>, index/<hex>.json, tmp/, locks/}.
//
// Safe against any number of processes: each name is made under its lock; what is half-made lies in
// tmp/, in a directory whose maker holds a lock on it, and is removed once that lock is free.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "envs/image/layer_writer.h"
#include "envs/sandbox/fd.h"

namespace espalier::envs::image {

/// Thread contract: a value; several threads may use copies. Errors of all methods: StoreError,
/// Cancelled.
class Cache {
 public:
  /// Makes the directories, and removes what killed processes left in tmp/.
  Cache(const std::filesystem::path& directory, const LayerFormat& format,
        const std::atomic<bool>& cancelled);

  std::filesystem::path layer(const std::string& key) const { return base_ / "layers" / key; }
  bool has_layer(const std::string& key) const;

  /// A directory of ours that is gone with the object, or with the process.
  class Scratch {
   public:
    explicit Scratch(const Cache& cache);
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    const std::filesystem::path& path() const { return path_; }

   private:
    std::filesystem::path path_;
    sandbox::Fd lock_;
  };

  /// Makes a finished directory a layer, durably. What another process made meanwhile stays.
  void commit(const std::filesystem::path& made, const std::string& key) const;

  /// Held by at most one holder of all processes, until the descriptor is closed.
  sandbox::Fd lock(const std::string& name) const;

  std::optional<std::string> read_index(const std::string& key) const;
  void write_index(const std::string& key, const std::string& content) const;

 private:
  void sweep() const;

  std::filesystem::path base_;
  const std::atomic<bool>* cancelled_;
};

}  // namespace espalier::envs::image
