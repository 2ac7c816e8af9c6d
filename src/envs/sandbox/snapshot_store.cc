// Merging, naming, writing and reading of snapshots.
#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"
#include "envs/sandbox/fd.h"
#include "envs/sandbox/snapshot.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kVersion = 1;
constexpr const char* kOpaqueXattr = "user.espalier.opaque";
constexpr size_t kMaxFileBytes = size_t{4} << 30;

// Text of commands may be any bytes: in JSON each byte stands as the code point of its value.
json bytes_to_json(const std::string& bytes) {
  std::string text;
  for (unsigned char c : bytes) {
    if (c < 0x80) {
      text += char(c);
    } else {
      text += char(0xC0 | (c >> 6));
      text += char(0x80 | (c & 0x3F));
    }
  }
  return text;
}

std::string bytes_from_json(const json& value) {
  std::string text = value.get<std::string>(), bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned char c = (unsigned char)text[i];
    if (c < 0x80 || i + 1 == text.size()) {
      bytes += char(c);
    } else {
      bytes += char(((c & 0x03) << 6) | ((unsigned char)text[++i] & 0x3F));
    }
  }
  return bytes;
}

json meta_of(const SnapshotContent& content) {
  const Limits& limits = content.spec.limits;
  json variables = json::object();
  for (const auto& [name, value] : content.spec.variables) variables[name] = bytes_to_json(value);
  return {{"version", kVersion},
          {"image", content.spec.image},
          {"workdir", bytes_to_json(content.spec.workdir)},
          {"variables", variables},
          {"network", content.spec.network},
          {"limits",
           {{"memory_bytes", limits.memory_bytes},
            {"disk_bytes", limits.disk_bytes},
            {"disk_inodes", limits.disk_inodes},
            {"pids", limits.pids},
            {"cpus", limits.cpus},
            {"output_bytes", limits.output_bytes}}},
          {"shell", bytes_to_json(content.shell)},
          {"last_exit_code", content.last_exit_code}};
}

void read_meta(const json& meta, SnapshotContent* content) {
  content->spec.image = meta.at("image").get<std::string>();
  content->spec.workdir = bytes_from_json(meta.at("workdir"));
  for (const auto& [name, value] : meta.at("variables").items())
    content->spec.variables[name] = bytes_from_json(value);
  content->spec.network = meta.at("network").get<bool>();
  const json& limits = meta.at("limits");
  content->spec.limits = {
      limits.at("memory_bytes").get<size_t>(), limits.at("disk_bytes").get<size_t>(),
      limits.at("disk_inodes").get<size_t>(),  limits.at("pids").get<int>(),
      limits.at("cpus").get<double>(),         limits.at("output_bytes").get<size_t>()};
  content->shell = bytes_from_json(meta.at("shell"));
  content->last_exit_code = meta.at("last_exit_code").get<int>();
}

struct Release {
  void operator()(archive_entry* entry) const { archive_entry_free(entry); }
};
using Entry = std::unique_ptr<archive_entry, Release>;

[[noreturn]] void fail(const std::string& what, const fs::path& path, archive* handle) {
  const char* why = archive_error_string(handle);
  throw common::StoreError(what + " " + path.string() + ": " + (why ? why : "unknown error"));
}

void write_item(archive* out, const PackItem& item, const fs::path& path) {
  Entry entry(archive_entry_new());
  archive_entry_set_pathname(entry.get(), item.path.c_str());
  archive_entry_set_mode(entry.get(), mode_t(item.mode));
  archive_entry_set_uid(entry.get(), item.uid);
  archive_entry_set_gid(entry.get(), item.gid);
  archive_entry_set_mtime(entry.get(), item.mtime_s, long(item.mtime_ns));
  bool file = S_ISREG(item.mode);
  archive_entry_set_size(entry.get(), file ? int64_t(item.content.size()) : 0);
  if (S_ISLNK(item.mode)) archive_entry_set_symlink(entry.get(), item.content.c_str());
  if (S_ISCHR(item.mode)) archive_entry_set_rdev(entry.get(), 0);
  if (item.opaque) archive_entry_xattr_add_entry(entry.get(), kOpaqueXattr, "y", 1);
  if (archive_write_header(out, entry.get()) != ARCHIVE_OK) fail("write snapshot", path, out);
  if (file && archive_write_data(out, item.content.data(), item.content.size()) < 0)
    fail("write snapshot", path, out);
}

void write_archive(const fs::path& path, const std::vector<PackItem>& items) {
  Fd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd)
    throw common::StoreError("write snapshot " + path.string() + ": " + std::strerror(errno));
  struct Free {
    void operator()(archive* handle) const { archive_write_free(handle); }
  };
  std::unique_ptr<archive, Free> out(archive_write_new());
  archive_write_set_format_pax(out.get());
  if (archive_write_add_filter_zstd(out.get()) != ARCHIVE_OK)
    archive_write_add_filter_gzip(out.get());  // a libarchive without zstd; readers tell by content
  if (archive_write_open_fd(out.get(), fd.get()) != ARCHIVE_OK)
    fail("write snapshot", path, out.get());
  for (const PackItem& item : items) write_item(out.get(), item, path);
  if (archive_write_close(out.get()) != ARCHIVE_OK) fail("write snapshot", path, out.get());
  if (fsync(fd.get()))
    throw common::StoreError("sync " + path.string() + ": " + std::strerror(errno));
}

PackItem read_item(archive* in, archive_entry* entry, const fs::path& path) {
  PackItem item;
  item.path = archive_entry_pathname(entry);
  while (item.path.size() > 1 && item.path.back() == '/') item.path.pop_back();
  item.mode = archive_entry_mode(entry);
  item.uid = uint32_t(archive_entry_uid(entry));
  item.gid = uint32_t(archive_entry_gid(entry));
  item.mtime_s = archive_entry_mtime(entry);
  item.mtime_ns = uint32_t(archive_entry_mtime_nsec(entry));
  item.opaque = archive_entry_xattr_count(entry) > 0;
  if (S_ISLNK(item.mode)) item.content = archive_entry_symlink(entry);
  if (!S_ISREG(item.mode)) return item;
  size_t size = size_t(archive_entry_size(entry));
  if (size > kMaxFileBytes) fail("read snapshot", path, in);
  item.content.resize(size);
  if (size && archive_read_data(in, item.content.data(), size) != la_ssize_t(size))
    fail("read snapshot", path, in);
  return item;
}

std::vector<PackItem> read_archive(const fs::path& path) {
  struct Free {
    void operator()(archive* handle) const { archive_read_free(handle); }
  };
  std::unique_ptr<archive, Free> in(archive_read_new());
  archive_read_support_filter_all(in.get());
  archive_read_support_format_tar(in.get());
  archive_read_support_format_empty(in.get());
  if (archive_read_open_filename(in.get(), path.c_str(), 64 * 1024) != ARCHIVE_OK)
    fail("read snapshot", path, in.get());
  std::vector<PackItem> items;
  archive_entry* entry = nullptr;
  int result;
  while ((result = archive_read_next_header(in.get(), &entry)) == ARCHIVE_OK)
    items.push_back(read_item(in.get(), entry, path));
  if (result != ARCHIVE_EOF) fail("read snapshot", path, in.get());
  return items;
}

void erase_below(std::map<std::string, PackItem>* merged, const std::string& path) {
  auto first = merged->lower_bound(path + "/"),
       last = merged->lower_bound(path + "0");  // '0' follows '/'
  merged->erase(first, last);
}

void merge_item(std::map<std::string, PackItem>* merged, PackItem item) {
  auto found = merged->find(item.path);
  bool directory = S_ISDIR(item.mode);
  bool over_directory = found != merged->end() && S_ISDIR(found->second.mode);
  if (!directory || !over_directory || item.opaque) erase_below(merged, item.path);
  // What a lower layer hid stays hidden.
  if (directory && found != merged->end())
    item.opaque = item.opaque || !over_directory || found->second.opaque;
  (*merged)[item.path] = std::move(item);
}

}  // namespace

std::vector<PackItem> merge_layers(const std::vector<std::vector<PackItem>>& layers) {
  std::map<std::string, PackItem> merged;
  for (const auto& layer : layers)
    for (const PackItem& item : layer) merge_item(&merged, item);
  std::vector<PackItem> items;
  for (auto& [path, item] : merged) {
    // Marks that hide nothing are history, not state.
    if (!item.covers && S_ISCHR(item.mode)) continue;
    item.opaque = item.opaque && item.covers;
    items.push_back(std::move(item));
  }
  return items;
}

SnapshotId snapshot_id(const SnapshotContent& content) {
  common::Sha256 hash;
  hash.update("espalier snapshot\n" + meta_of(content).dump() + "\n");
  for (PackItem item : content.items) {
    item.mtime_s = 0;
    item.mtime_ns = 0;
    std::string bytes;
    append_item(&bytes, item);
    hash.update(bytes);
  }
  auto digest = hash.finish();
  return {common::to_hex(digest.data(), digest.size())};
}

SnapshotId write_snapshot(const fs::path& directory, const SnapshotContent& content) {
  SnapshotId id = snapshot_id(content);
  fs::path place = directory / id.hex;
  std::error_code error;
  if (fs::exists(place / "meta.json", error)) return id;
  std::string name = "." + id.hex + "." + std::to_string(getpid());
  fs::path temporary = directory / name;
  fs::remove_all(temporary, error);
  fs::create_directories(temporary, error);
  if (error) throw common::StoreError("make " + temporary.string() + ": " + error.message());
  write_archive(temporary / "state.tar.zst", content.items);
  common::write_file_atomically(temporary / "meta.json", meta_of(content).dump(2) + "\n");
  fs::rename(temporary, place, error);
  bool there = fs::exists(place / "meta.json");
  if (error) fs::remove_all(temporary);
  if (error && !there)
    throw common::StoreError("rename to " + place.string() + ": " + error.message());
  Fd parent(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (parent) fsync(parent.get());
  return id;
}

SnapshotContent read_snapshot(const fs::path& directory, const SnapshotId& id) {
  if (id.hex.size() != 64 || id.hex.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw common::StoreError("open the snapshot '" + id.hex + "': an id has 64 hexadecimal digits");
  fs::path place = directory / id.hex;
  SnapshotContent content;
  std::string text = common::read_file(place / "meta.json");
  try {
    json meta = json::parse(text);
    int version = meta.at("version").get<int>();
    if (version != kVersion)
      throw common::StoreError("open the snapshot " + place.string() + ": version " +
                               std::to_string(version) + "; this program reads " +
                               std::to_string(kVersion));
    read_meta(meta, &content);
  } catch (const json::exception& e) {
    throw common::StoreError("open the snapshot " + place.string() + ": meta.json: " + e.what());
  }
  content.items = read_archive(place / "state.tar.zst");
  SnapshotId found = snapshot_id(content);
  if (found == id) return content;
  throw common::StoreError("open the snapshot " + place.string() + ": its content is that of " +
                           found.hex);
}

}  // namespace espalier::envs::sandbox
