#include "envs/image/image.h"

#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/error.h"
#include "common/files.h"
#include "common/sha256.h"
#include "envs/image/builder.h"
#include "envs/image/cache.h"
#include "envs/image/layout.h"
#include "envs/image/tar_stream.h"
#include "envs/image/tree.h"

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string hash_of(const std::string& text) {
  auto digest = common::sha256(text);
  return common::to_hex(digest.data(), digest.size());
}

// ---- what a reference names ----

enum class Kind { directory, layout, archive, dockerfile, named };

struct Reference {
  Kind kind = Kind::named;
  fs::path path;
};

bool is_dockerfile_name(const fs::path& path) {
  std::string name = path.filename().string();
  return name == "Dockerfile" || name == "Containerfile" || name.starts_with("Dockerfile.") ||
         path.extension() == ".Dockerfile";
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

Reference classify(const std::string& text) {
  if (text.empty())
    throw common::TaskError("image '': a name is empty; 'host' is this machine's own root");
  constexpr std::string_view kDirectory = "dir:";
  bool says_directory = text.starts_with(kDirectory);
  fs::path path = says_directory ? text.substr(kDirectory.size()) : text;
  bool says_path =
      says_directory || text.starts_with('/') || text.starts_with("./") || text.starts_with("../");
  struct stat st;
  bool there = stat(path.c_str(), &st) == 0;
  if (!there && says_path) throw common::TaskError("image '" + text + "': " + std::strerror(errno));
  // A bare word is a name, whatever directory happens to have it.
  if (!there || (!says_path && !S_ISREG(st.st_mode))) return {};
  path = fs::absolute(path).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (path.empty() || path == "/")
    throw common::TaskError("image '" + text +
                            "': this machine's own root is the image 'host', which hides what is "
                            "not for agents");
  if (!S_ISDIR(st.st_mode)) {
    if (says_directory) throw common::TaskError("image '" + text + "': it is no directory");
    return {is_dockerfile_name(path) ? Kind::dockerfile : Kind::archive, path};
  }
  if (says_directory) return {Kind::directory, path};
  if (is_there(path / "oci-layout") || is_there(path / "index.json")) return {Kind::layout, path};
  if (!is_there(path / "bin") && !is_there(path / "usr"))
    for (const char* name : {"Dockerfile", "Containerfile"})
      if (is_there(path / name)) return {Kind::dockerfile, path / name};
  return {Kind::directory, path};
}

/// True when the archive's first member belongs to a layout rather than to a root.
bool holds_layout(const fs::path& file, const std::string& source,
                  const std::atomic<bool>& cancelled) {
  TarStream stream(open_for_reading(file, source), source, cancelled);
  while (archive_entry* entry = stream.next()) {
    const char* name = archive_entry_pathname(entry);
    std::string first = name ? name : "";
    while (first.starts_with("./")) first.erase(0, 2);
    first = first.substr(0, first.find('/'));
    if (first.empty() || first == ".") continue;
    std::string stem = first.substr(0, first.find('.'));
    bool digest = stem.size() == 64 && stem.find_first_not_of("0123456789abcdef") == stem.npos;
    return digest || first == "blobs" || first == "oci-layout" || first == "index.json" ||
           first == "manifest.json" || first == "repositories";
  }
  return false;
}

// ---- the index: what a reference was resolved to ----

struct Resolved {
  std::string identity;
  std::vector<std::string> layers;  // keys, bottom first
  ImageConfig config;
};

std::string to_json(const Resolved& resolved) {
  const ImageConfig& config = resolved.config;
  json document = {{"identity", resolved.identity}, {"layers", resolved.layers},
                   {"present", config.present},     {"variables", config.variables},
                   {"workdir", config.workdir},     {"user", config.user}};
  return document.dump(2) + "\n";
}

std::optional<Resolved> from_json(const std::string& text) {
  Resolved resolved;
  try {
    json document = json::parse(text);
    document.at("identity").get_to(resolved.identity);
    document.at("layers").get_to(resolved.layers);
    document.at("present").get_to(resolved.config.present);
    document.at("variables").get_to(resolved.config.variables);
    document.at("workdir").get_to(resolved.config.workdir);
    document.at("user").get_to(resolved.config.user);
  } catch (const json::exception&) {
    return std::nullopt;  // made anew
  }
  return resolved;
}

/// One resolution in progress.
class Resolver {
 public:
  Resolver(const ImageStoreOptions& options, std::string source, const std::atomic<bool>& cancelled)
      : format_(options.format),
        source_(std::move(source)),
        cancelled_(cancelled),
        cache_(options.cache, options.format, cancelled) {}

  Resolved archive(const fs::path& file) {
    struct stat st;
    if (stat(file.c_str(), &st)) throw common::TaskError(source_ + ": " + std::strerror(errno));
    std::string facts = file.string();
    for (uint64_t fact : {uint64_t(st.st_dev), uint64_t(st.st_ino), uint64_t(st.st_size),
                          uint64_t(st.st_mtim.tv_sec), uint64_t(st.st_mtim.tv_nsec),
                          uint64_t(st.st_ctim.tv_sec), uint64_t(st.st_ctim.tv_nsec)})
      facts += " " + std::to_string(fact);
    return indexed(hash_of("archive " + facts), [&] {
      return holds_layout(file, source_, cancelled_) ? layout_archive(file) : root_archive(file);
    });
  }

  Resolved layout(const fs::path& directory) {
    Layout layout = read_layout(directory, source_);
    Resolved resolved{"sha256:" + layout.config_digest, {}, layout.config};
    for (const LayoutLayer& layer : layout.layers) {
      add_layer(directory, layer);
      resolved.layers.push_back(layer.diff_id);
    }
    return resolved;
  }

  Resolved copied_directory(const fs::path& directory, const std::string& signature) {
    std::string key = "tree-" + signature;
    sandbox::Fd held = cache_.lock(key);
    if (!cache_.has_layer(key)) {
      Cache::Scratch scratch(cache_);
      fs::path tree = make_tree(scratch);
      copy_tree(directory, tree, format_, source_, cancelled_);
      cache_.commit(tree, key);
    }
    return {"tree:" + signature, {key}, {}};
  }

  Resolved dockerfile(const fs::path& file) {
    std::string key = hash_of("dockerfile " + file.filename().string() + " " +
                              tree_content_hash(file.parent_path(), cancelled_));
    return indexed(key, [&] {
      Builder builder = need_builder("to build it");
      Cache::Scratch scratch(cache_);
      return saved(builder, build(builder, file, scratch.path(), cancelled_));
    });
  }

  Resolved named(const std::string& name) {
    Builder builder = need_builder("to look for an image of this name");
    auto id = id_of(builder, name, cancelled_);
    if (!id)
      throw common::TaskError(source_ + ": " + builder.name +
                              " has no image of this name and nothing is fetched from a registry "
                              "here: run `" +
                              builder.name + " pull " + name +
                              "`, or name an archive, a directory ('./DIR') or a Dockerfile");
    return indexed(hash_of("saved " + *id), [&] { return saved(builder, *id); });
  }

  std::vector<fs::path> paths_of(const Resolved& resolved) const {
    std::vector<fs::path> paths;
    for (const std::string& key : resolved.layers) {
      fs::path layer = cache_.layer(key);
      char mark = 0;
      // What lies below a root that is opaque is not seen; overlay would show it.
      if (lgetxattr(layer.c_str(), format_.opaque_xattr(), &mark, 1) == 1) paths.clear();
      paths.push_back(layer);
    }
    std::reverse(paths.begin(), paths.end());
    return paths;
  }

 private:
  template <class Make>
  Resolved indexed(const std::string& key, Make make) {
    if (auto known = look_up(key)) return *known;
    sandbox::Fd held = cache_.lock(key);
    if (auto known = look_up(key)) return *known;
    Resolved resolved = make();
    cache_.write_index(key, to_json(resolved));
    return resolved;
  }

  std::optional<Resolved> look_up(const std::string& key) const {
    auto text = cache_.read_index(key);
    auto resolved = text ? from_json(*text) : std::nullopt;
    if (!resolved) return std::nullopt;
    for (const std::string& layer : resolved->layers)
      if (!cache_.has_layer(layer)) return std::nullopt;
    return resolved;
  }

  static fs::path make_tree(const Cache::Scratch& scratch) {
    fs::path tree = scratch.path() / "tree";
    if (mkdir(tree.c_str(), 0755) || chmod(tree.c_str(), 0755))
      throw common::StoreError("image cache: mkdir " + tree.string() + ": " + std::strerror(errno));
    return tree;
  }

  TarStream::Digests extract(sandbox::Fd file, const std::string& source, const fs::path& to,
                             const LayerWriterOptions& options) {
    TarStream stream(std::move(file), source, cancelled_);
    LayerWriter writer(to, options);
    while (archive_entry* entry = stream.next()) writer.add(stream.handle(), entry);
    writer.finish();
    return stream.finish();
  }

  Resolved root_archive(const fs::path& file) {
    Cache::Scratch scratch(cache_);
    fs::path tree = make_tree(scratch);
    auto digests =
        extract(open_for_reading(file, source_), source_, tree, {format_, source_, true, false});
    if (!digests.closed)
      throw common::TaskError(source_ + ": the archive ends without its end mark: it is truncated");
    sandbox::Fd held = cache_.lock(digests.content);
    if (!cache_.has_layer(digests.content)) cache_.commit(tree, digests.content);
    return {"sha256:" + digests.content, {digests.content}, {}};
  }

  Resolved layout_archive(const fs::path& file) {
    Cache::Scratch scratch(cache_);
    fs::path tree = make_tree(scratch);
    extract(open_for_reading(file, source_), source_, tree, {LayerFormat{}, source_, false, false});
    if (!is_layout(tree))
      throw common::TaskError(source_ + ": it holds neither index.json nor manifest.json");
    return layout(tree);
  }

  void add_layer(const fs::path& directory, const LayoutLayer& layer) {
    if (cache_.has_layer(layer.diff_id)) return;
    sandbox::Fd held = cache_.lock(layer.diff_id);
    if (cache_.has_layer(layer.diff_id)) return;
    std::string source = source_ + ": layer " + layer.path;
    Cache::Scratch scratch(cache_);
    fs::path tree = make_tree(scratch);
    auto digests = extract(open_below(directory, layer.path, source_), source, tree,
                           {format_, source, true, false});
    if (!layer.blob.empty() && digests.file != layer.blob)
      throw common::TaskError(source + " does not match its digest; it has sha256:" + digests.file);
    if (digests.content != layer.diff_id)
      throw common::TaskError(source + " does not match the configuration's diff_id sha256:" +
                              layer.diff_id + "; it unpacks to sha256:" + digests.content);
    cache_.commit(tree, layer.diff_id);
  }

  Builder need_builder(const std::string& why) const {
    if (auto builder = find_builder()) return *builder;
    throw common::TaskError(source_ + ": neither podman nor buildah is installed " + why +
                            ": install one (apt-get install podman), or name an archive or a "
                            "directory");
  }

  Resolved saved(const Builder& builder, const std::string& id) {
    Cache::Scratch scratch(cache_);
    fs::path file = scratch.path() / "image.tar";
    save(builder, id, file, cancelled_);
    return layout_archive(file);
  }

  LayerFormat format_;
  std::string source_;
  const std::atomic<bool>& cancelled_;
  Cache cache_;
};

}  // namespace

Image ImageStore::resolve(const std::string& reference, Directories directories) {
  if (cancelled_) throw common::Cancelled("the image store was closed");
  Reference named = classify(reference);
  Image image;
  image.reference = reference;
  std::string signature;
  if (named.kind == Kind::directory) {
    signature = tree_signature(named.path, cancelled_);
    if (directories == Directories::in_place) {
      image.identity = "tree:" + signature;
      image.layers = {named.path};
      image.in_place = true;
      return image;
    }
  }
  Resolver resolver(options_, "image '" + reference + "'", cancelled_);
  Resolved resolved;
  switch (named.kind) {
    case Kind::directory:
      resolved = resolver.copied_directory(named.path, signature);
      break;
    case Kind::layout:
      resolved = resolver.layout(named.path);
      break;
    case Kind::archive:
      resolved = resolver.archive(named.path);
      break;
    case Kind::dockerfile:
      resolved = resolver.dockerfile(named.path);
      break;
    case Kind::named:
      resolved = resolver.named(reference);
      break;
  }
  image.identity = resolved.identity;
  image.layers = resolver.paths_of(resolved);
  image.config = resolved.config;
  return image;
}

fs::path default_image_cache() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache && *cache == '/') return fs::path(cache) / "espalier" / "images";
  const char* home = std::getenv("HOME");
  if (home && *home == '/') return fs::path(home) / ".cache" / "espalier" / "images";
  return {};
}

}  // namespace espalier::envs::image
