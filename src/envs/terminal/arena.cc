#include "envs/terminal/arena.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "common/error.h"

namespace espalier::envs::terminal {
namespace {

constexpr size_t kAlignment = 16;
constexpr size_t kPageBytes = 4096;
constexpr int kAddressTries = 64;

size_t rounded(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

/// The upper half is no colour (its first byte is a small tag), the lower no character.
bool unlike_contents(uintptr_t address) {
  return (address >> 32 & 0xff) >= 0x10 && uint32_t(address) >= 0x110000;
}

std::byte* map_pages(size_t bytes) {
  std::vector<void*> refused;
  void* taken = nullptr;
  for (int i = 0; i < kAddressTries && !taken; ++i) {
    void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) break;
    if (unlike_contents(reinterpret_cast<uintptr_t>(at)) || i + 1 == kAddressTries)
      taken = at;
    else
      refused.push_back(at);
  }
  for (void* at : refused) munmap(at, bytes);
  if (!taken)
    throw common::SandboxError("map " + std::to_string(bytes) +
                               " bytes for a terminal's screen: " + std::strerror(errno));
  return static_cast<std::byte*>(taken);
}

}  // namespace

struct alignas(kAlignment) Arena::Block {
  size_t bytes;  // of what follows
  size_t free;
};

Arena::Arena(size_t capacity_bytes)
    : capacity_(rounded(capacity_bytes, kPageBytes)), used_(kAlignment) {
  base_ = map_pages(capacity_);
  *reinterpret_cast<Arena**>(base_) = this;
}

Arena::~Arena() { munmap(base_, capacity_); }

void* Arena::allocate(size_t bytes) {
  bytes = rounded(bytes, kAlignment);
  for (size_t at = kAlignment; at < used_;) {
    auto* block = reinterpret_cast<Block*>(base_ + at);
    if (block->free && block->bytes >= bytes) {
      block->free = 0;
      return std::memset(block + 1, 0, block->bytes);
    }
    at += sizeof(Block) + block->bytes;
  }
  if (sizeof(Block) + bytes > capacity_ - used_) {
    if (!exhausted) std::abort();
    std::longjmp(*exhausted, 1);
  }
  auto* block = reinterpret_cast<Block*>(base_ + used_);
  block->bytes = bytes;
  block->free = 0;
  used_ += sizeof(Block) + bytes;
  return std::memset(block + 1, 0, bytes);
}

void Arena::release(void* pointer) {
  if (!pointer) return;
  auto* block = static_cast<Block*>(pointer) - 1;
  block->free = 1;
  if (reinterpret_cast<std::byte*>(block + 1) + block->bytes == base_ + used_)
    used_ -= sizeof(Block) + block->bytes;
}

std::byte* Arena::rebased(std::byte* pointer, const Arena& copy) const {
  bool inside = pointer >= base_ && pointer <= base_ + used_;
  return inside ? copy.base_ + (pointer - base_) : pointer;
}

std::unique_ptr<Arena> Arena::copy() const {
  auto out = std::make_unique<Arena>(capacity_);
  out->used_ = used_;
  auto* from = reinterpret_cast<const uintptr_t*>(base_);
  auto* to = reinterpret_cast<uintptr_t*>(out->base_);
  auto begin = reinterpret_cast<uintptr_t>(base_);
  auto shift = reinterpret_cast<uintptr_t>(out->base_) - begin;
  for (size_t i = kAlignment / sizeof *from; i < used_ / sizeof *from; ++i)
    to[i] = from[i] - begin <= used_ ? from[i] + shift : from[i];
  return out;
}

}  // namespace espalier::envs::terminal
