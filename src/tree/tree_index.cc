#include "tree/tree_index.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "common/crc32c.h"

namespace espalier::tree {
namespace {

constexpr std::string_view kMagic = "ESPINDX1";
constexpr uint64_t kFirstSlots = 1024;
constexpr uint64_t kMaxProbes = 4096;  // a damaged table must not be walked for long

/// All numbers little-endian, as on every machine this is built for.
struct Header {
  char magic[8];
  uint64_t slots;  // a power of two
  uint64_t used;
};

struct Slot {
  uint64_t key;
  uint64_t step;
  uint32_t row;
  uint32_t crc;  // of what stands before; a free slot is all zeros

  uint32_t sum() const {
    return common::crc32c({reinterpret_cast<const char*>(this), offsetof(Slot, crc)}) | 1;
  }
  bool is_free() const { return crc == 0; }
};

// The two kinds of keys differ in the top bit.
constexpr uint64_t kIdBit = uint64_t{1} << 63;
uint64_t key_of(uint64_t index) { return index & ~kIdBit; }
uint64_t key_of(const NodeId& id) {
  uint64_t key;
  std::memcpy(&key, id.bytes.data(), sizeof key);
  return key | kIdBit;
}

uint64_t mixed(uint64_t key) {  // the finaliser of MurmurHash3
  key = (key ^ (key >> 33)) * 0xFF51AFD7ED558CCDULL;
  key = (key ^ (key >> 33)) * 0xC4CEB9FE1A85EC53ULL;
  return key ^ (key >> 33);
}

/// The table in memory, mapped. Empty where there is no sound file.
class Table {
 public:
  Table(const std::filesystem::path& file, bool write) {
    const int fd = ::open(file.c_str(), (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    struct stat status;
    if (fd >= 0 && ::fstat(fd, &status) == 0 &&
        static_cast<size_t>(status.st_size) >= sizeof(Header)) {
      size_ = static_cast<size_t>(status.st_size);
      void* memory =
          ::mmap(nullptr, size_, PROT_READ | (write ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
      if (memory != MAP_FAILED) memory_ = static_cast<char*>(memory);
    }
    if (fd >= 0) ::close(fd);
    if (memory_ && !sound()) unmap();
  }
  ~Table() { unmap(); }
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  explicit operator bool() const { return memory_ != nullptr; }
  Header& header() const { return *reinterpret_cast<Header*>(memory_); }
  Slot* slots() const { return reinterpret_cast<Slot*>(memory_ + sizeof(Header)); }

  /// The key's slot, or the free one where it belongs; null: the table is damaged.
  Slot* find(uint64_t key) const {
    const uint64_t mask = header().slots - 1;
    uint64_t at = mixed(key) & mask;
    for (uint64_t probe = 0; probe < std::min(kMaxProbes, mask); ++probe, at = (at + 1) & mask) {
      Slot& slot = slots()[at];
      if (slot.is_free() || slot.key == key) return &slot;
    }
    return nullptr;
  }

 private:
  bool sound() const {
    const uint64_t slots = header().slots;
    return std::string_view(header().magic, kMagic.size()) == kMagic && slots >= kFirstSlots &&
           (slots & (slots - 1)) == 0 && slots < (uint64_t{1} << 40) &&
           size_ == sizeof(Header) + slots * sizeof(Slot);
  }
  void unmap() {
    if (memory_) ::munmap(memory_, size_);
    memory_ = nullptr;
  }

  char* memory_ = nullptr;
  size_t size_ = 0;
};

/// A file of free slots. Its blocks exist: a mapped hole on a full disk would be a fatal signal.
bool make_table(const std::filesystem::path& file, uint64_t slots) {
  const int fd = ::open(file.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return false;
  const auto size = static_cast<off_t>(sizeof(Header) + slots * sizeof(Slot));
  Header header{{}, slots, 0};
  std::memcpy(header.magic, kMagic.data(), kMagic.size());
  const bool made = ::posix_fallocate(fd, 0, size) == 0 &&
                    ::pwrite(fd, &header, sizeof header, 0) == sizeof header;
  ::close(fd);
  if (!made) ::unlink(file.c_str());
  return made;
}

bool put(Table& table, Slot slot) {
  Slot* place = table.find(slot.key);
  if (!place) return false;
  if (place->is_free()) ++table.header().used;
  slot.crc = slot.sum();
  *place = slot;
  return true;
}

/// A table with room for `more`: the file's own, or a larger one in its place.
bool make_room(const std::filesystem::path& file, uint64_t more) {
  uint64_t slots = kFirstSlots, used = 0;
  Table old(file, false);
  if (old) {
    slots = old.header().slots;
    used = old.header().used;
    if ((used + more) * 2 <= slots) return true;
  }
  while ((used + more) * 2 > slots) slots *= 2;
  const std::filesystem::path partial = file.string() + ".partial";
  if (!make_table(partial, slots)) return false;
  if (Table grown(partial, true); grown && old)
    for (uint64_t i = 0; i < old.header().slots; ++i)
      if (const Slot& slot = old.slots()[i]; !slot.is_free() && slot.crc == slot.sum())
        put(grown, slot);
  return ::rename(partial.c_str(), file.c_str()) == 0;
}

std::optional<TreePlace> look_up(const std::filesystem::path& file, uint64_t key) {
  const Table table(file, false);
  if (!table) return std::nullopt;
  const Slot* slot = table.find(key);
  if (!slot || slot->is_free()) return std::nullopt;
  const Slot copy = *slot;
  if (copy.key != key || copy.crc != copy.sum()) return std::nullopt;
  return TreePlace{copy.step, copy.row};
}

}  // namespace

TreeIndex::TreeIndex(const std::filesystem::path& trees) : file_(trees / "index") {}

void TreeIndex::add(uint64_t step, const std::vector<Tree>& trees) noexcept {
  std::vector<uint64_t> indices;
  std::vector<NodeId> ids;
  for (const Tree& tree : trees) {
    indices.push_back(tree.index);
    ids.push_back(tree.id);
  }
  add(step, indices, ids);
}

void TreeIndex::add(uint64_t step, const std::vector<uint64_t>& indices,
                    const std::vector<NodeId>& ids) noexcept {
  bool added = make_room(file_, 2 * indices.size());
  if (Table table(file_, true); added && table)
    for (uint32_t row = 0; added && row < indices.size(); ++row)
      added = put(table, {key_of(indices[row]), step, row, 0}) &&
              put(table, {key_of(ids[row]), step, row, 0});
  if (!added) ::unlink(file_.c_str());
}

std::optional<TreePlace> TreeIndex::find(uint64_t index) const {
  return look_up(file_, key_of(index));
}

std::optional<TreePlace> TreeIndex::find(const NodeId& id) const {
  return look_up(file_, key_of(id));
}

bool TreeIndex::exists() const {
  std::error_code error;
  return std::filesystem::exists(file_, error);
}

}  // namespace espalier::tree
