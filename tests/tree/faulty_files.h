// A file system that fails when it is told to, and that forgets what was not synced, as a machine
// without power does.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "common/error.h"
#include "common/files.h"
#include "tree/file_system.h"

namespace espalier::tree::testing {

enum class Fault { write, torn_write, sync, rename, sync_directory };

/// Over the machine's own, whose syncs it only takes note of. Thread contract: any thread.
class FaultyFiles : public FileSystem {
 public:
  /// From its `number`-th operation (from 0) of this kind on, everything fails.
  FaultyFiles(Fault fault, int number) : fault_(fault), number_(number) {}

  bool failed() const { return failed_; }

  std::unique_ptr<OutputFile> open(const std::filesystem::path& file, uint64_t keep) override {
    check();
    auto inner = posix_files().open(file, keep);
    std::lock_guard held(mutex_);
    State& state = files_[file];
    if (!state.seen && keep > 0) state.name_durable = true;  // it was there before
    state.seen = true;
    state.size = keep;
    state.durable = std::min(state.durable, keep);
    if (state.name_durable) state.durable = keep;
    return std::make_unique<File>(*this, file, std::move(inner));
  }

  void rename(const std::filesystem::path& from, const std::filesystem::path& to) override {
    count(Fault::rename, "rename");
    posix_files().rename(from, to);
    std::lock_guard held(mutex_);
    files_[to] = files_[from];
    files_[to].name_durable = true;  // journaling file systems order it behind the data
    files_.erase(from);
  }

  void sync_directory(const std::filesystem::path& directory) override {
    count(Fault::sync_directory, "sync directory");
    std::lock_guard held(mutex_);
    for (auto& [file, state] : files_)
      if (file.parent_path() == directory) state.name_durable = true;
  }

  /// What is on disk after the power went: files cut to what was synced, names that were not synced
  /// gone.
  void lose_power() {
    std::lock_guard held(mutex_);
    for (const auto& [file, state] : files_) {
      std::error_code error;
      if (!state.name_durable) {
        std::filesystem::remove(file, error);
      } else if (std::filesystem::exists(file, error)) {
        std::filesystem::resize_file(file, state.durable);
      }
    }
  }

 private:
  struct State {
    uint64_t size = 0, durable = 0;
    bool seen = false, name_durable = false;
  };

  class File : public OutputFile {
   public:
    File(FaultyFiles& owner, std::filesystem::path path, std::unique_ptr<OutputFile> inner)
        : owner_(owner), path_(std::move(path)), inner_(std::move(inner)) {}
    void append(std::string_view bytes) override {
      const bool torn = owner_.fault_ == Fault::torn_write;
      try {
        owner_.count(torn ? Fault::torn_write : Fault::write, "write");
      } catch (const common::StoreError&) {
        if (torn && !owner_.torn_.exchange(true)) write(bytes.substr(0, bytes.size() / 2));
        throw;
      }
      write(bytes);
    }
    void sync() override {
      owner_.count(Fault::sync, "sync");
      uint64_t size = 0;
      {
        std::lock_guard held(owner_.mutex_);
        size = owner_.files_[path_].size;
      }
      std::lock_guard held(owner_.mutex_);
      owner_.files_[path_].durable = size;
    }

   private:
    void write(std::string_view bytes) {
      inner_->append(bytes);
      std::lock_guard held(owner_.mutex_);
      owner_.files_[path_].size += bytes.size();
    }
    FaultyFiles& owner_;
    std::filesystem::path path_;
    std::unique_ptr<OutputFile> inner_;
  };

  void check() const {
    if (failed_) throw common::StoreError("injected: the disk is gone");
  }
  void count(Fault kind, const char* operation) {
    check();
    if (kind != fault_ || seen_++ < number_) return;
    failed_ = true;
    throw common::StoreError(std::string("injected: ") + operation + " fails");
  }

  const Fault fault_;
  const int number_;
  std::atomic<int> seen_{0};
  std::atomic<bool> failed_{false}, torn_{false};
  std::mutex mutex_;
  std::map<std::filesystem::path, State> files_;
};

}  // namespace espalier::tree::testing
