#include "envs/container/tar.h"

#include <archive.h>
#include <archive_entry.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <memory>
#include <vector>

#include "common/error.h"
#include "common/files.h"

namespace espalier::envs::container {
namespace {

namespace fs = std::filesystem;
using Writer = std::unique_ptr<archive, decltype(&archive_write_free)>;
using Reader = std::unique_ptr<archive, decltype(&archive_read_free)>;
using Entry = std::unique_ptr<archive_entry, decltype(&archive_entry_free)>;

la_ssize_t append_to(archive*, void* text, const void* bytes, size_t size) {
  static_cast<std::string*>(text)->append(static_cast<const char*>(bytes), size);
  return static_cast<la_ssize_t>(size);
}

struct Item {
  std::string name;
  mode_t mode = 0;
  std::string content = {};  // of a file; target of a symlink
  timespec modified = {};    // zero: now
};

/// A tar archive that grows in a string.
class Tar {
 public:
  Tar() : writer_(archive_write_new(), archive_write_free) {
    archive_write_set_format_pax_restricted(writer_.get());
    archive_write_set_bytes_in_last_block(writer_.get(), 1);
    check(archive_write_open2(writer_.get(), &text_, nullptr, append_to, nullptr, nullptr));
  }
  void add(const Item& item, uint32_t uid, uint32_t gid) {
    Entry entry(archive_entry_new(), archive_entry_free);
    archive_entry_set_pathname(entry.get(), item.name.c_str());
    archive_entry_set_filetype(entry.get(), item.mode & S_IFMT);
    archive_entry_set_perm(entry.get(), item.mode & 07777);
    archive_entry_set_uid(entry.get(), uid);
    archive_entry_set_gid(entry.get(), gid);
    const timespec& modified = item.modified;
    archive_entry_set_mtime(entry.get(), modified.tv_sec ? modified.tv_sec : std::time(nullptr),
                            modified.tv_nsec);
    if (S_ISLNK(item.mode)) archive_entry_set_symlink(entry.get(), item.content.c_str());
    const bool regular = S_ISREG(item.mode);
    archive_entry_set_size(entry.get(), regular ? static_cast<la_int64_t>(item.content.size()) : 0);
    check(archive_write_header(writer_.get(), entry.get()));
    if (regular && archive_write_data(writer_.get(), item.content.data(), item.content.size()) < 0)
      check(ARCHIVE_FATAL);
  }
  std::string finish() {
    check(archive_write_close(writer_.get()));
    return std::move(text_);
  }

 private:
  void check(int code) {
    if (code < ARCHIVE_WARN)
      throw common::TaskError(std::string("pack files for a container: ") +
                              archive_error_string(writer_.get()));
  }
  std::string text_;
  Writer writer_;
};

/// The bytes of a file that may deny reading even to its owner, who may for a moment.
std::string content_of(const fs::path& path, mode_t mode) {
  if (access(path.c_str(), R_OK) == 0) return common::read_file(path);
  chmod(path.c_str(), mode | S_IRUSR);
  std::string content;
  std::exception_ptr error;
  try {
    content = common::read_file(path);
  } catch (const common::Error&) {
    error = std::current_exception();
  }
  chmod(path.c_str(), mode);
  if (error) std::rethrow_exception(error);
  return content;
}

void add_entries(Tar* tar, const fs::path& directory, const std::string& prefix, uint32_t uid,
                 uint32_t gid) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) paths.push_back(entry.path());
  if (error) throw common::TaskError("list " + directory.string() + ": " + error.message());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    struct stat st;
    if (lstat(path.c_str(), &st))
      throw common::TaskError("stat " + path.string() + ": " + std::strerror(errno));
    Item item{prefix + path.filename().string(), st.st_mode, "", st.st_mtim};
    if (S_ISREG(st.st_mode)) {
      item.content = content_of(path, st.st_mode & 07777);
    } else if (S_ISLNK(st.st_mode)) {
      item.content = fs::read_symlink(path).string();
    } else if (!S_ISDIR(st.st_mode)) {
      throw common::TaskError("copy " + path.string() +
                              " into a container: only files, directories and symlinks can be");
    }
    tar->add(item, uid, gid);
    if (S_ISDIR(st.st_mode)) add_entries(tar, path, item.name + "/", uid, gid);
  }
}

}  // namespace

std::string tar_of_file(const std::string& name, const std::string& content, unsigned mode) {
  Tar tar;
  tar.add({name, static_cast<mode_t>(S_IFREG | (mode & 07777)), content}, 0, 0);
  return tar.finish();
}

std::string tar_of_tree(const std::filesystem::path& from, const std::string& prefix, uint32_t uid,
                        uint32_t gid) {
  Tar tar;
  if (!prefix.empty()) tar.add({prefix, S_IFDIR | 0755, ""}, uid, gid);
  if (!from.empty()) add_entries(&tar, from, prefix.empty() ? "" : prefix + "/", uid, gid);
  return tar.finish();
}

TarFile first_of_tar(const std::string& tar, size_t max_bytes) {
  Reader reader(archive_read_new(), archive_read_free);
  archive_read_support_format_tar(reader.get());
  archive_entry* entry = nullptr;
  if (archive_read_open_memory(reader.get(), tar.data(), tar.size()) != ARCHIVE_OK ||
      archive_read_next_header(reader.get(), &entry) < ARCHIVE_WARN)
    throw common::SandboxError(
        std::string("read a file of a container: the engine sends no archive: ") +
        archive_error_string(reader.get()));
  TarFile file;
  if (archive_entry_filetype(entry) == AE_IFLNK) file.link = archive_entry_symlink(entry);
  if (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry)) return file;
  file.regular = true;
  file.content.resize(std::min(static_cast<size_t>(archive_entry_size(entry)), max_bytes));
  size_t used = 0;
  while (used < file.content.size()) {
    const la_ssize_t n =
        archive_read_data(reader.get(), file.content.data() + used, file.content.size() - used);
    if (n <= 0) break;
    used += static_cast<size_t>(n);
  }
  file.content.resize(used);
  return file;
}

}  // namespace espalier::envs::container
