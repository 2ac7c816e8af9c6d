#include "envs/image/tree.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;

void check(const std::atomic<bool>& cancelled) {
  if (cancelled) throw common::Cancelled("reading the image was cancelled");
}

[[noreturn]] void fail(const char* operation, const fs::path& path, int error) {
  throw common::TaskError(std::string("image: ") + operation + " " + path.string() + ": " +
                          std::strerror(error));
}

using Visit = std::function<void(const fs::path&, const std::string&, const struct stat&)>;

/// Everything below the directory, names sorted, on its own file system.
void walk(const fs::path& directory, const std::string& prefix, dev_t device,
          const std::atomic<bool>& cancelled, const Visit& visit) {
  check(cancelled);
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end;
       entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error) fail("list", directory, error.value());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    fs::path path = directory / name;
    struct stat st;
    if (lstat(path.c_str(), &st)) fail("stat", path, errno);
    visit(path, prefix + name, st);
    if (S_ISDIR(st.st_mode) && st.st_dev == device)
      walk(path, prefix + name + "/", device, cancelled, visit);
  }
}

void walk(const fs::path& directory, const std::atomic<bool>& cancelled, const Visit& visit) {
  struct stat st;
  if (stat(directory.c_str(), &st)) fail("stat", directory, errno);
  walk(directory, "", st.st_dev, cancelled, visit);
}

std::string link_target(const fs::path& path) {
  std::error_code error;
  fs::path target = fs::read_symlink(path, error);
  if (error) fail("read the link", path, error.value());
  return target.string();
}

void add(common::Sha256* hash, const std::string& part) {
  hash->update(std::to_string(part.size()) + ":");
  hash->update(part);
}

std::string hex(common::Sha256& hash) {
  auto digest = hash.finish();
  return common::to_hex(digest.data(), digest.size());
}

}  // namespace

std::string tree_signature(const fs::path& directory, const std::atomic<bool>& cancelled) {
  common::Sha256 hash;
  hash.update("espalier tree 1\n");
  walk(directory, cancelled, [&](const fs::path& path, const std::string& name, const auto& st) {
    std::string facts = std::to_string(st.st_mode) + " " + std::to_string(st.st_uid) + " " +
                        std::to_string(st.st_gid);
    if (S_ISREG(st.st_mode))
      facts += " " + std::to_string(st.st_size) + " " + std::to_string(st.st_mtim.tv_sec);
    if (S_ISLNK(st.st_mode)) facts += " " + link_target(path);
    add(&hash, name);
    add(&hash, facts);
  });
  return hex(hash);
}

std::string tree_content_hash(const fs::path& directory, const std::atomic<bool>& cancelled) {
  common::Sha256 hash;
  hash.update("espalier context 1\n");
  walk(directory, cancelled, [&](const fs::path& path, const std::string& name, const auto& st) {
    add(&hash, name);
    add(&hash, std::to_string(st.st_mode));
    if (S_ISLNK(st.st_mode)) add(&hash, link_target(path));
    try {
      if (S_ISREG(st.st_mode)) add(&hash, common::read_file(path));
    } catch (const common::StoreError& error) {
      throw common::TaskError(error.what());
    }
  });
  return hex(hash);
}

void copy_tree(const fs::path& from, const fs::path& to, const LayerFormat& format,
               const std::string& source, const std::atomic<bool>& cancelled) {
  struct Free {
    void operator()(archive* handle) const { archive_read_free(handle); }
    void operator()(archive_entry* entry) const { archive_entry_free(entry); }
    void operator()(archive_entry_linkresolver* links) const {
      archive_entry_linkresolver_free(links);
    }
  };
  std::unique_ptr<archive, Free> disk(archive_read_disk_new());
  std::unique_ptr<archive_entry_linkresolver, Free> links(archive_entry_linkresolver_new());
  std::unique_ptr<archive_entry, Free> entry(archive_entry_new());
  archive_entry_linkresolver_set_strategy(links.get(), ARCHIVE_FORMAT_TAR_PAX_INTERCHANGE);
  archive_read_disk_set_symlink_physical(disk.get());
  archive_read_disk_set_behavior(disk.get(), ARCHIVE_READDISK_NO_TRAVERSE_MOUNTS |
                                                 ARCHIVE_READDISK_NO_ACL |
                                                 ARCHIVE_READDISK_NO_FFLAGS);
  LayerWriter writer(to, {format, source, false, true});
  auto refuse = [&] {
    const char* why = archive_error_string(disk.get());
    throw common::TaskError(source + ": " + (why ? why : "cannot be read"));
  };
  if (archive_read_disk_open(disk.get(), from.c_str()) != ARCHIVE_OK) refuse();
  for (;;) {
    check(cancelled);
    archive_entry_clear(entry.get());
    int result = archive_read_next_header2(disk.get(), entry.get());
    if (result == ARCHIVE_EOF) break;
    if (result < ARCHIVE_WARN) refuse();
    archive_read_disk_descend(disk.get());
    std::string name = fs::path(archive_entry_pathname(entry.get())).lexically_relative(from);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry *first = entry.get(), *held = nullptr;
    archive_entry_linkify(links.get(), &first, &held);
    writer.add(disk.get(), entry.get());
  }
  writer.finish();
}

}  // namespace espalier::envs::image
