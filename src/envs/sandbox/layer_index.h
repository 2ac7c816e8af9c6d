// What a stored layer holds, without the bytes: the base of layer ids and of the ids of states.
//
// Equal content has equal digests, whatever it looks like on disk: times are left out, and a hole
// in a file is the same as zeros.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/error.h"
#include "common/sha256.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {

/// One path of a layer. Modes as st_mode, ids as seen inside the sandbox.
struct IndexEntry {
  std::string path;
  uint32_t mode = 0;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint32_t flags = 0;        // wire::PackFlags: opaque, covers, same
  uint64_t size = 0;         // of a file
  common::Digest content{};  // of a file's bytes, of a symlink's target
  std::string xattrs;        // wire::PackXattr records
  std::string link;          // a file with several names: the first of them; else empty
};

struct LayerIndex {
  std::vector<IndexEntry> entries;  // sorted by path
  uint64_t data_bytes = 0;          // of all files, holes left out
};

/// A layer in the store, or on its way there.
struct StoredLayer {
  std::string id;  // of an empty layer: empty, nothing is stored
  LayerIndex index;
};
using StoredLayerPtr = std::shared_ptr<const StoredLayer>;

/// Bytes and back. Errors: StoreError when the bytes are no index.
std::string encode_index(const LayerIndex& index);
LayerIndex decode_index(std::string_view bytes);

/// The SHA-256 in hexadecimal of the entries without what they cover.
std::string layer_id(const LayerIndex& index);

/// The SHA-256 in hexadecimal of what the layers (lowest first) show together over the skeleton. It
/// does not depend on how the state is cut into layers: marks that hide nothing, and directories
/// that are as in the skeleton, do not count.
std::string state_digest(const std::vector<StoredLayerPtr>& layers);

/// A pack that ends before its end mark: whoever made it failed, and says why.
class PackCutShort : public common::StoreError {
 public:
  PackCutShort() : StoreError("a pack has no end") {}
};

/// Reads a pack piece by piece into an index. Thread contract: one owner.
class PackIndexer {
 public:
  PackIndexer();
  ~PackIndexer();
  PackIndexer(const PackIndexer&) = delete;
  PackIndexer& operator=(const PackIndexer&) = delete;
  /// Errors: StoreError when the bytes are no pack.
  void feed(std::string_view bytes);
  /// Errors: PackCutShort when the end mark has not come.
  LayerIndex finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace espalier::envs::sandbox
