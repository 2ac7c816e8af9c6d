#include "envs/sandbox/layer_index.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

namespace espalier::envs::sandbox {
namespace {

constexpr uint32_t kKeptFlags = wire::kPackOpaque | wire::kPackCovers | wire::kPackSame;

template <class T>
void put(std::string* out, const T& value) {
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
void put_text(std::string* out, std::string_view text) {
  put(out, uint32_t(text.size()));
  *out += text;
}

void put_entry(std::string* out, const IndexEntry& entry, uint32_t flags, std::string_view link) {
  put_text(out, entry.path);
  for (uint32_t value : {entry.mode, entry.uid, entry.gid, flags}) put(out, value);
  put(out, entry.size);
  out->append(reinterpret_cast<const char*>(entry.content.data()), entry.content.size());
  put_text(out, entry.xattrs);
  put_text(out, link);
}

class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : bytes_(bytes) {}
  bool at_end() const { return bytes_.empty(); }
  std::string_view take(size_t size) {
    if (size > bytes_.size()) throw common::StoreError("the index is cut short");
    auto part = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return part;
  }
  template <class T>
  T value() {
    T out;
    std::memcpy(&out, take(sizeof out).data(), sizeof out);
    return out;
  }
  std::string text() { return std::string(take(value<uint32_t>())); }

 private:
  std::string_view bytes_;
};

/// A path of the state that layers show together.
struct Shown {
  const IndexEntry* entry = nullptr;
  uint32_t flags = 0;
  size_t layer = 0;
};
using View = std::map<std::string_view, Shown>;

void erase_below(View* view, std::string_view path) {
  // '0' follows '/'.
  view->erase(view->lower_bound(std::string(path) + "/"),
              view->lower_bound(std::string(path) + "0"));
}

void show(View* view, const IndexEntry& entry, size_t layer) {
  auto found = view->find(entry.path);
  bool directory = S_ISDIR(entry.mode), there = found != view->end();
  bool over_directory = there && S_ISDIR(found->second.entry->mode);
  uint32_t flags = entry.flags;
  // What a lower layer hid stays hidden.
  if (directory && there)
    flags |= over_directory ? found->second.flags & wire::kPackOpaque : uint32_t{wire::kPackOpaque};
  if (over_directory && (!directory || (entry.flags & wire::kPackOpaque)))
    erase_below(view, entry.path);
  (*view)[entry.path] = {&entry, flags, layer};
}

bool is_in_opaque(const View& view, std::string_view path) {
  for (size_t slash = path.rfind('/'); slash != std::string_view::npos && slash > 0;
       slash = path.rfind('/', slash - 1)) {
    auto above = view.find(path.substr(0, slash));
    if (above != view.end() && (above->second.flags & wire::kPackOpaque)) return true;
  }
  return false;
}

/// Takes out what is history, not state: marks that hide nothing of the skeleton, directories that
/// are as there. Directories come before what is in them, so those above have been seen to.
void drop_history(View* view) {
  for (auto at = view->begin(); at != view->end();) {
    auto& [path, shown] = *at;
    bool directory = S_ISDIR(shown.entry->mode), whiteout = S_ISCHR(shown.entry->mode);
    bool covers =
        (directory || whiteout) && (shown.flags & wire::kPackCovers) && !is_in_opaque(*view, path);
    if (!covers) shown.flags &= ~uint32_t{wire::kPackOpaque};
    bool plain = covers && !(shown.flags & wire::kPackOpaque);
    bool drop = whiteout ? !covers : directory && plain && (shown.flags & wire::kPackSame);
    at = drop ? view->erase(at) : std::next(at);
  }
}

using LinkKey = std::pair<size_t, std::string_view>;  // layer, first name there

/// For each group of names of one file that are still there: the first, and how many.
std::map<LinkKey, std::pair<std::string_view, size_t>> group_links(const View& view) {
  std::map<LinkKey, std::pair<std::string_view, size_t>> groups;
  for (const auto& [path, shown] : view)
    if (!shown.entry->link.empty())
      ++groups.try_emplace({shown.layer, shown.entry->link}, path, 0).first->second.second;
  return groups;
}

}  // namespace

std::string encode_index(const LayerIndex& index) {
  std::string out;
  put(&out, index.data_bytes);
  for (const IndexEntry& entry : index.entries) put_entry(&out, entry, entry.flags, entry.link);
  return out;
}

LayerIndex decode_index(std::string_view bytes) {
  Decoder in(bytes);
  LayerIndex index;
  index.data_bytes = in.value<uint64_t>();
  while (!in.at_end()) {
    IndexEntry& entry = index.entries.emplace_back();
    entry.path = in.text();
    entry.mode = in.value<uint32_t>();
    entry.uid = in.value<uint32_t>();
    entry.gid = in.value<uint32_t>();
    entry.flags = in.value<uint32_t>();
    entry.size = in.value<uint64_t>();
    entry.content = in.value<common::Digest>();
    entry.xattrs = in.text();
    entry.link = in.text();
  }
  return index;
}

std::string layer_id(const LayerIndex& index) {
  common::Sha256 hash;
  hash.update("espalier layer\n");
  std::string bytes;
  for (const IndexEntry& entry : index.entries) {
    bytes.clear();
    put_entry(&bytes, entry, entry.flags & wire::kPackOpaque, entry.link);
    hash.update(bytes);
  }
  auto digest = hash.finish();
  return common::to_hex(digest.data(), digest.size());
}

std::string state_digest(const std::vector<StoredLayerPtr>& layers) {
  View view;
  for (size_t i = 0; i < layers.size(); ++i)
    for (const IndexEntry& entry : layers[i]->index.entries) show(&view, entry, i);
  drop_history(&view);
  auto groups = group_links(view);
  common::Sha256 hash;
  hash.update("espalier state\n");
  std::string bytes;
  for (const auto& [path, shown] : view) {
    std::string_view link;
    if (!shown.entry->link.empty()) {
      const auto& [first, names] = groups.at({shown.layer, shown.entry->link});
      if (names > 1) link = first;
    }
    bytes.clear();
    put_entry(&bytes, *shown.entry, shown.flags & wire::kPackOpaque, link);
    hash.update(bytes);
  }
  auto digest = hash.finish();
  return common::to_hex(digest.data(), digest.size());
}

// ---- from a pack ----

namespace {

constexpr size_t kBlockBytes = 4096;

bool is_zero(const char* data, size_t size) {
  return size == 0 || (data[0] == 0 && std::memcmp(data, data + 1, size - 1) == 0);
}

/// Digest of a file's bytes in which a block of zeros and a hole are the same.
class ContentHash {
 public:
  void data(uint64_t offset, std::string_view bytes) {
    while (!bytes.empty()) {
      size_t at = offset % kBlockBytes;
      if (pending_ > 0 && offset != pending_end()) skip_to(offset);
      if (pending_ == 0 && at == 0 && bytes.size() >= kBlockBytes) {
        size_t whole = bytes.size() / kBlockBytes * kBlockBytes;
        blocks(offset, bytes.data(), whole);
        bytes.remove_prefix(whole);
        offset += whole;
        continue;
      }
      gather(&offset, &bytes);
    }
  }

  common::Digest finish(uint64_t size) {
    flush();
    std::string head = "espalier file\n";
    put(&head, size);
    for (const auto& [offset, bytes] : runs_) {
      put(&head, offset);
      put(&head, bytes);
    }
    auto digest = bytes_.finish();
    head.append(reinterpret_cast<const char*>(digest.data()), digest.size());
    return common::sha256(head);
  }

 private:
  uint64_t pending_end() const { return block_start_ + pending_; }

  /// A hole: zeros up to offset.
  void skip_to(uint64_t offset) {
    if (offset >= block_start_ + kBlockBytes) return flush();
    std::memset(block_ + pending_, 0, offset - pending_end());
    pending_ = size_t(offset - block_start_);
  }

  /// Into the block that is not whole yet; what is missing before it are zeros.
  void gather(uint64_t* offset, std::string_view* bytes) {
    size_t at = *offset % kBlockBytes;
    if (pending_ == 0) {
      block_start_ = *offset - at;
      std::memset(block_, 0, at);
    }
    size_t n = std::min(bytes->size(), kBlockBytes - at);
    std::memcpy(block_ + at, bytes->data(), n);
    pending_ = at + n;
    bytes->remove_prefix(n);
    *offset += n;
    if (pending_ == kBlockBytes) flush();
  }

  void flush() {
    if (pending_ == 0) return;
    std::memset(block_ + pending_, 0, kBlockBytes - pending_);
    pending_ = 0;
    blocks(block_start_, block_, kBlockBytes);
  }

  /// Whole blocks: stretches that are not zero are hashed in one go.
  void blocks(uint64_t offset, const char* data, size_t size) {
    for (size_t at = 0; at < size;) {
      size_t end = at;
      while (end < size && !is_zero(data + end, kBlockBytes)) end += kBlockBytes;
      if (end > at) {
        if (!runs_.empty() && runs_.back().first + runs_.back().second == offset + at) {
          runs_.back().second += end - at;
        } else {
          runs_.emplace_back(offset + at, end - at);
        }
        bytes_.update({data + at, end - at});
      }
      at = end == at ? at + kBlockBytes : end;
    }
  }

  common::Sha256 bytes_;
  std::vector<std::pair<uint64_t, uint64_t>> runs_;  // offset and length of what is not zero
  char block_[kBlockBytes];
  uint64_t block_start_ = 0;
  size_t pending_ = 0;
};

}  // namespace

struct PackIndexer::State {
  enum class Part { head, path, xattrs, text, content, segment, segment_content, ended };

  void feed(std::string_view bytes);
  void small(std::string_view* bytes);
  void content(std::string_view* bytes);
  void begin_entry();
  void part_done();
  void begin_content();
  void begin_segment(const std::string& bytes);
  void link_done(const std::string& text);
  void content_done();
  void end_entry();

  Part part = Part::head;
  std::string gathered;  // of a part that is needed whole
  uint64_t wanted = sizeof(wire::PackEntry);
  uint64_t offset = 0;  // of content in its file
  wire::PackEntry head{};
  IndexEntry entry;
  std::unique_ptr<ContentHash> hash;
  LayerIndex index;
  std::unordered_map<std::string, size_t> places;         // of files, in index.entries
  std::map<std::string, std::vector<size_t>> hard_links;  // by the first in the pack
};

PackIndexer::PackIndexer() : state_(std::make_unique<State>()) {}
PackIndexer::~PackIndexer() = default;
void PackIndexer::feed(std::string_view bytes) { state_->feed(bytes); }

void PackIndexer::State::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    if (part == Part::ended) throw common::StoreError("a pack goes on after its end");
    if (part == Part::content || part == Part::segment_content) {
      content(&bytes);
    } else {
      small(&bytes);
    }
  }
}

void PackIndexer::State::small(std::string_view* bytes) {
  size_t n = size_t(std::min<uint64_t>(wanted - gathered.size(), bytes->size()));
  gathered.append(bytes->data(), n);
  bytes->remove_prefix(n);
  if (gathered.size() == wanted) part_done();
}

void PackIndexer::State::content(std::string_view* bytes) {
  size_t n = size_t(std::min<uint64_t>(wanted, bytes->size()));
  hash->data(offset, bytes->substr(0, n));
  index.data_bytes += n;
  bytes->remove_prefix(n);
  offset += n;
  wanted -= n;
  if (wanted == 0) content_done();
}

void PackIndexer::State::begin_entry() {
  std::memcpy(&head, gathered.data(), sizeof head);
  if (head.magic == wire::kPackEnd) {
    part = Part::ended;
    return;
  }
  if (head.magic != wire::kPackMagic || head.path_bytes == 0 || head.path_bytes > 4096 ||
      head.xattr_bytes > wire::kPackMaxXattrBytes)
    throw common::StoreError("a pack has a damaged entry");
  entry = IndexEntry{};
  entry.mode = head.mode;
  entry.uid = head.uid;
  entry.gid = head.gid;
  entry.flags = head.flags & kKeptFlags;
  part = Part::path;
  wanted = head.path_bytes;
}

/// Goes on to the next part that has bytes.
void PackIndexer::State::part_done() {
  std::string text = std::move(gathered);
  gathered.clear();
  switch (part) {
    case Part::head:
      gathered = std::move(text);
      begin_entry();
      gathered.clear();
      return;
    case Part::path:
      entry.path = std::move(text);
      if (head.xattr_bytes == 0) return begin_content();
      part = Part::xattrs;
      wanted = head.xattr_bytes;
      return;
    case Part::xattrs:
      entry.xattrs = std::move(text);
      return begin_content();
    case Part::segment:
      return begin_segment(text);
    case Part::text:
      return link_done(text);
    default:
      return;
  }
}

void PackIndexer::State::begin_segment(const std::string& bytes) {
  wire::PackSegment segment;
  std::memcpy(&segment, bytes.data(), sizeof segment);
  if (segment.bytes == 0) return end_entry();
  if (segment.offset < offset || segment.bytes > entry.size ||
      segment.offset > entry.size - segment.bytes)
    throw common::StoreError("a pack has a damaged segment");
  part = Part::segment_content;
  offset = segment.offset;
  wanted = segment.bytes;
}

/// Of a symlink its target has come, of a hard link the first name.
void PackIndexer::State::link_done(const std::string& text) {
  if (head.flags & wire::kPackHardLink) {
    auto first = places.find(text);
    if (first == places.end()) throw common::StoreError("a pack links to a path it lacks");
    std::string path = std::move(entry.path);
    entry = index.entries[first->second];
    entry.path = std::move(path);
    hard_links[text].push_back(index.entries.size());
  } else {
    entry.content = common::sha256(text);
  }
  end_entry();
}

/// After path and attributes.
void PackIndexer::State::begin_content() {
  bool file = S_ISREG(head.mode), link = file && (head.flags & wire::kPackHardLink);
  if (link || S_ISLNK(head.mode)) {
    if (head.size == 0 || head.size > 4096) throw common::StoreError("a pack has a damaged link");
    part = Part::text;
    wanted = head.size;
  } else if (file) {
    entry.size = head.size;
    hash = std::make_unique<ContentHash>();
    offset = 0;
    bool sparse = head.flags & wire::kPackSparse;
    part = sparse ? Part::segment : Part::content;
    wanted = sparse ? sizeof(wire::PackSegment) : head.size;
    if (wanted == 0) content_done();
  } else {
    end_entry();
  }
}

void PackIndexer::State::content_done() {
  if (part == Part::content) return end_entry();
  part = Part::segment;
  wanted = sizeof(wire::PackSegment);
}

void PackIndexer::State::end_entry() {
  if (hash) {
    entry.content = hash->finish(entry.size);
    hash.reset();
  }
  if (S_ISREG(entry.mode)) places[entry.path] = index.entries.size();
  index.entries.push_back(std::move(entry));
  part = Part::head;
  wanted = sizeof(wire::PackEntry);
}

LayerIndex PackIndexer::finish() {
  State& s = *state_;
  if (s.part != State::Part::ended) throw PackCutShort();
  for (const auto& [first, others] : s.hard_links) {
    std::string name = first;
    for (size_t i : others) name = std::min(name, s.index.entries[i].path);
    s.index.entries[s.places[first]].link = name;
    for (size_t i : others) s.index.entries[i].link = name;
  }
  auto& entries = s.index.entries;
  std::sort(entries.begin(), entries.end(),
            [](const IndexEntry& a, const IndexEntry& b) { return a.path < b.path; });
  return std::move(s.index);
}

}  // namespace espalier::envs::sandbox
