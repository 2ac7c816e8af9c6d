#include "envs/image/view.h"

#include <sys/xattr.h>

#include <algorithm>
#include <deque>
#include <fstream>
#include <numeric>

namespace espalier::envs::image {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLinks = 40;

std::deque<std::string> split(const std::string& path) {
  std::deque<std::string> parts;
  for (size_t at = 0; at < path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    if (end > at && path.substr(at, end - at) != ".") parts.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

}  // namespace

ImageView::ImageView(const Image& image, const LayerFormat& format)
    : layers_(image.layers), format_(format), shifted_(format.keep_owners && !image.in_place) {}

ImageView::Step ImageView::step(const std::vector<Step>& from, const std::string& name) const {
  fs::path below;
  for (const Step& step : from) below /= step.name;
  Step next;
  next.name = name;
  for (size_t layer : from.back().layers) {
    fs::path host = layers_[layer] / below / name;
    struct stat st;
    if (lstat(host.c_str(), &st)) continue;
    bool directory = S_ISDIR(st.st_mode), whiteout = S_ISCHR(st.st_mode) && st.st_rdev == 0;
    if (whiteout || (next.there && !directory)) break;
    if (!next.there) {
      next.there = true;
      next.host = host;
      next.st = st;
    }
    if (!directory) break;
    next.layers.push_back(layer);
    char mark = 0;
    if (lgetxattr(host.c_str(), format_.opaque_xattr(), &mark, 1) == 1 && mark == 'y') break;
  }
  return next;
}

/// The first step is the root. Symbolic links are replaced by what they lead to.
std::vector<ImageView::Step> ImageView::walk(const std::string& path) const {
  Step root;
  root.there = true;
  root.layers.resize(layers_.size());
  std::iota(root.layers.begin(), root.layers.end(), size_t{0});
  root.host = layers_.front();
  root.st.st_mode = S_IFDIR | 0755;
  root.st.st_uid = root.st.st_gid = shifted_ ? format_.uid_base : 0;
  std::vector<Step> steps = {root};
  std::deque<std::string> left = split(path);
  for (int links = 0; !left.empty();) {
    std::string name = std::move(left.front());
    left.pop_front();
    if (name == "..") {
      if (steps.size() > 1) steps.pop_back();
      continue;
    }
    Step next = step(steps, name);
    if (next.there && S_ISLNK(next.st.st_mode) && ++links <= kMaxLinks) {
      std::error_code error;
      std::string target = fs::read_symlink(next.host, error).string();
      if (target.starts_with('/')) steps.resize(1);
      std::deque<std::string> more = split(target);
      left.insert(left.begin(), more.begin(), more.end());
    } else {
      steps.push_back(std::move(next));
    }
  }
  return steps;
}

std::string ImageView::resolve(const std::string& path) const {
  std::string real;
  for (const Step& step : walk(path)) real += (real.empty() ? "" : "/") + step.name;
  return real;
}

std::optional<ImageView::Found> ImageView::find(const std::string& path) const {
  std::vector<Step> steps = walk(path);
  const Step& last = steps.back();
  if (!last.there) return std::nullopt;
  std::string real;
  for (const Step& step : steps) real += (real.empty() ? "" : "/") + step.name;
  uint32_t base = shifted_ ? format_.uid_base : 0;
  return Found{real, last.host, last.st.st_mode, last.st.st_uid - base, last.st.st_gid - base};
}

std::optional<std::string> ImageView::read(const std::string& path, size_t max_bytes) const {
  auto found = find(path);
  if (!found || !S_ISREG(found->mode)) return std::nullopt;
  std::ifstream in(found->host, std::ios::binary);
  if (!in) return std::nullopt;
  std::string content(max_bytes, '\0');
  in.read(content.data(), std::streamsize(max_bytes));
  content.resize(size_t(in.gcount()));
  return content;
}

}  // namespace espalier::envs::image
