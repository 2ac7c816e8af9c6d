// The memory of one libvterm emulator, in one piece, so that it can be copied.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <memory>

namespace espalier::envs::terminal {

/// First-fit allocator over one mapping; takes no memory until it is written to. Thread contract:
/// one owner.
class Arena {
 public:
  explicit Arena(size_t capacity_bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// What names this arena in data that lies within it: the handle of a copy names the copy.
  void* handle() { return base_; }
  static Arena& of(void* handle) { return **static_cast<Arena**>(handle); }

  /// Zeroed and aligned to 16. When the arena is full: jumps to `exhausted` where that is set, else
  /// aborts.
  void* allocate(size_t bytes);
  void release(void* block);

  /// A copy whose words that point into this arena point to the same place in the copy. A number in
  /// here that looks like such an address would come out changed; the constructor takes an address
  /// that, read as two 32-bit halves, is neither two characters nor two colours.
  std::unique_ptr<Arena> copy() const;
  /// Where `pointer`, into this arena, is in `copy`. Pointers elsewhere stay as they are.
  template <class T>
  T* moved(T* pointer, const Arena& copy) const {
    return reinterpret_cast<T*>(rebased(reinterpret_cast<std::byte*>(pointer), copy));
  }

  std::jmp_buf* exhausted = nullptr;

 private:
  struct Block;
  std::byte* rebased(std::byte* pointer, const Arena& copy) const;

  std::byte* base_ = nullptr;
  size_t capacity_;
  size_t used_;  // a pointer to this object, then one block after another
};

}  // namespace espalier::envs::terminal
