// Packs made by hand, entry by entry.
#pragma once

#include <sys/stat.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "envs/sandbox/fd.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox::testing {

/// Each method adds an entry and returns the builder.
class PackBuilder {
 public:
  using Segments = std::vector<std::pair<uint64_t, std::string>>;

  /// Of the entries that follow.
  PackBuilder& at_time(int64_t seconds) {
    mtime_s_ = seconds;
    return *this;
  }
  /// Of the next entry.
  PackBuilder& with_xattr(const std::string& name, const std::string& value) {
    wire::PackXattr record{uint32_t(name.size()), uint32_t(value.size())};
    xattrs_.append(reinterpret_cast<const char*>(&record), sizeof record);
    xattrs_ += name + value;
    return *this;
  }
  PackBuilder& file(const std::string& path, std::string_view content, uint32_t mode = 0644) {
    return entry(path, S_IFREG | mode, 0, content.size(), content);
  }
  PackBuilder& sparse(const std::string& path, uint64_t size, const Segments& segments) {
    std::string content;
    auto segment = [&](uint64_t offset, std::string_view bytes) {
      wire::PackSegment head{offset, bytes.size()};
      content.append(reinterpret_cast<const char*>(&head), sizeof head);
      content += bytes;
    };
    for (const auto& [offset, bytes] : segments) segment(offset, bytes);
    segment(size, "");
    return entry(path, S_IFREG | 0644, wire::kPackSparse, size, content);
  }
  PackBuilder& hard_link(const std::string& path, const std::string& first) {
    return entry(path, S_IFREG | 0644, wire::kPackHardLink, first.size(), first);
  }
  PackBuilder& symlink(const std::string& path, const std::string& target) {
    return entry(path, S_IFLNK | 0777, 0, target.size(), target);
  }
  PackBuilder& directory(const std::string& path, uint32_t mode = 0755, uint32_t flags = 0) {
    return entry(path, S_IFDIR | mode, flags, 0, "");
  }
  PackBuilder& opaque_directory(const std::string& path) {
    return directory(path, 0755, wire::kPackOpaque);
  }
  PackBuilder& whiteout(const std::string& path, bool covers = false) {
    return entry(path, S_IFCHR, covers ? uint32_t{wire::kPackCovers} : 0, 0, "");
  }

  std::string ended() const {
    wire::PackEntry end{};
    end.magic = wire::kPackEnd;
    return bytes_ + std::string(reinterpret_cast<const char*>(&end), sizeof end);
  }
  Fd file() const { return make_memory_file("pack", ended()); }
  Fd cut(size_t size) const { return make_memory_file("pack", ended().substr(0, size)); }

 private:
  PackBuilder& entry(const std::string& path, uint32_t mode, uint32_t flags, uint64_t size,
                     std::string_view content) {
    wire::PackEntry head{};
    head.magic = wire::kPackMagic;
    head.mode = mode;
    head.mtime_s = mtime_s_;
    head.flags = flags;
    head.size = size;
    head.path_bytes = uint32_t(path.size());
    head.xattr_bytes = uint32_t(xattrs_.size());
    bytes_.append(reinterpret_cast<const char*>(&head), sizeof head);
    bytes_ += path + xattrs_;
    bytes_ += content;
    xattrs_.clear();
    return *this;
  }

  std::string bytes_, xattrs_;
  int64_t mtime_s_ = 0;
};

}  // namespace espalier::envs::sandbox::testing
