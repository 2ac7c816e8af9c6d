// Hand-made archives and a tiny root for tests of images.
#pragma once

#include <sys/stat.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "common/files.h"
#include "common/sha256.h"

namespace espalier::envs::testing {

inline std::string sha256_of(const std::string& bytes) {
  auto digest = common::sha256(bytes);
  return common::to_hex(digest.data(), digest.size());
}

/// A ustar archive, member by member, with whatever names and types a test likes.
class HandMadeTar {
 public:
  struct Member {
    std::string name;
    char type = '0';
    std::string content;
    std::string link;
    unsigned mode = 0644;
    unsigned uid = 0, gid = 0;
  };
  HandMadeTar& add(const Member& member) {
    char header[512] = {0};
    std::snprintf(header, 100, "%s", member.name.c_str());
    std::snprintf(header + 100, 8, "%07o", member.mode);
    std::snprintf(header + 108, 8, "%07o", member.uid);
    std::snprintf(header + 116, 8, "%07o", member.gid);
    std::snprintf(header + 124, 12, "%011zo", member.content.size());
    std::snprintf(header + 136, 12, "%011o", 1700000000u);
    header[156] = member.type;
    std::snprintf(header + 157, 100, "%s", member.link.c_str());
    std::memcpy(header + 257, "ustar\00000", 8);
    std::memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (unsigned char c : header) sum += c;
    std::snprintf(header + 148, 8, "%06o", sum);
    bytes_.append(header, sizeof header);
    bytes_ += member.content;
    bytes_.append((512 - member.content.size() % 512) % 512, '\0');
    return *this;
  }
  HandMadeTar& directory(const std::string& name, unsigned mode = 0755) {
    return add({name, '5', "", "", mode});
  }
  HandMadeTar& file(const std::string& name, const std::string& content, unsigned mode = 0644) {
    return add({name, '0', content, "", mode});
  }
  HandMadeTar& symlink(const std::string& name, const std::string& target) {
    return add({name, '2', "", target, 0777});
  }
  HandMadeTar& hard_link(const std::string& name, const std::string& target) {
    return add({name, '1', "", target});
  }
  std::string open_ended() const { return bytes_; }
  std::string bytes() const { return bytes_ + std::string(1024, '\0'); }

 private:
  std::string bytes_;
};

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << bytes;
}

/// Runs a command of the host's shell; its exit code.
inline int host(const std::string& command) {
  return std::system(("(" + command + ") >&2").c_str());
}

inline std::string bytes_of_file(const std::filesystem::path& path) {
  std::ostringstream out;
  out << std::ifstream(path, std::ios::binary).rdbuf();
  return out.str();
}

/// A root with bash, a few programs of the host and the libraries they need. False where the host
/// has no ldd.
inline bool make_tiny_root(const std::filesystem::path& root) {
  std::string to = root.string();
  for (const char* name : {"usr/bin", "etc", "var", "srv/data"})
    std::filesystem::create_directories(root / name);
  std::filesystem::create_directory_symlink("usr/bin", root / "bin");
  write_bytes(root / "etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
  write_bytes(root / "etc/issue", "tiny\n");
  return host(
             "set -e; for p in bash cat ls id stat mkdir rm touch env mv chmod head seq sleep; do "
             "f=$(command -v $p); cp -L $f " +
             to +
             "/usr/bin/$p; "
             "for l in $(ldd $f | grep -o '/[^ ]*'); do mkdir -p " +
             to +
             "$(dirname $l); "
             "cp -Ln $l " +
             to + "$l; done; done") == 0;
}

/// An OCI layout or a `docker save` archive, from uncompressed layers.
struct HandMadeImage {
  std::vector<std::string> layers;  // tar bytes, bottom first
  std::string architecture = "amd64";
  std::string run_config = "{}";

  std::string config() const {
    std::string ids;
    for (const std::string& layer : layers)
      ids += (ids.empty() ? "" : ",") + ("\"sha256:" + sha256_of(layer) + "\"");
    return "{\"architecture\":\"" + architecture + "\",\"os\":\"linux\",\"config\":" + run_config +
           ",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[" + ids + "]}}";
  }
  static std::string descriptor(const std::string& bytes, const std::string& more = "") {
    return "{\"mediaType\":\"application/octet-stream\",\"digest\":\"sha256:" + sha256_of(bytes) +
           "\",\"size\":" + std::to_string(bytes.size()) + more + "}";
  }
  /// Writes the blobs, and returns the manifest's descriptor.
  std::string write_blobs(const std::filesystem::path& directory, bool compressed) const {
    std::string list;
    auto blob = [&](const std::string& bytes) {
      write_bytes(directory / "blobs/sha256" / sha256_of(bytes), bytes);
      return bytes;
    };
    for (std::string layer : layers) {
      if (compressed) {
        write_bytes(directory / "raw", layer);
        host("gzip -nkf " + (directory / "raw").string());
        layer = bytes_of_file(directory / "raw.gz");
        std::filesystem::remove(directory / "raw");
        std::filesystem::remove(directory / "raw.gz");
      }
      list += (list.empty() ? "" : ",") + descriptor(blob(layer));
    }
    std::string manifest = "{\"schemaVersion\":2,\"config\":" + descriptor(blob(config())) +
                           ",\"layers\":[" + list + "]}";
    return descriptor(blob(manifest),
                      ",\"platform\":{\"architecture\":\"" + architecture + "\",\"os\":\"linux\"}");
  }
  void write_oci(const std::filesystem::path& directory, bool compressed = true) const {
    std::string manifest = write_blobs(directory, compressed);
    write_index(directory, {manifest});
  }
  static void write_index(const std::filesystem::path& directory,
                          const std::vector<std::string>& manifests) {
    std::string list;
    for (const std::string& one : manifests) list += (list.empty() ? "" : ",") + one;
    write_bytes(directory / "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}");
    write_bytes(directory / "index.json", "{\"schemaVersion\":2,\"manifests\":[" + list + "]}");
  }
  std::string docker_archive() const {
    HandMadeTar tar;
    std::string list, name = sha256_of(config()) + ".json";
    for (const std::string& layer : layers) {
      std::string path = sha256_of(layer) + "/layer.tar";
      list += (list.empty() ? "" : ",") + ("\"" + path + "\"");
      tar.file(path, layer);
    }
    tar.file(name, config());
    tar.file("manifest.json",
             "[{\"Config\":\"" + name + "\",\"RepoTags\":[\"tiny:1\"],\"Layers\":[" + list + "]}]");
    return tar.bytes();
  }
};

}  // namespace espalier::envs::testing
