// The other half of graft_memory.h: a program's memory in the place of another's.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "envs/sandbox/init/graft_memory.h"
#include "envs/sandbox/init/live_fork.h"

namespace espalier::envs::init {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kAddressEnd = 0x7ffffffff000;
constexpr size_t kChunkBytes = 256 * 1024;

/// A script that runs whenever there is no room for more.
class LongScript {
 public:
  LongScript(const MemoryTarget& target, Failure* failure) : target_(target), failure_(failure) {
    script_ = new_script(target.area);
  }
  /// Room for that many calls that belong together, and their data.
  Script* next(size_t calls, size_t bytes = 0) {
    if (!script_->has_room(calls, bytes)) flush();
    used_ = true;
    return script_;
  }
  bool finish() {
    flush();
    return done_;
  }

 private:
  void flush() {
    if (used_ && done_ && !script_->run(target_.pid, target_.registers)) {
      failure_->set("rebuild a program's memory (call %lu)", script_->failed_call());
      done_ = false;
    }
    script_->clear();
    used_ = false;
  }

  const MemoryTarget& target_;
  Failure* failure_;
  Script* script_;
  bool used_ = false;
  bool done_ = true;
};

struct Range {
  uint64_t start, end;
};

void unmap_others(const MemoryTarget& target, LongScript* script) {
  Range kept[KernelPages::kMax + 1];
  size_t count = 0;
  kept[count++] = {target.area, target.area + Script::kAreaBytes};
  for (size_t i = 0; i < target.kernel_pages->count; ++i) {
    Range pages{target.kernel_pages->start[i],
                target.kernel_pages->start[i] + target.kernel_pages->bytes[i]};
    size_t at = count++;
    for (; at > 0 && kept[at - 1].start > pages.start; --at) kept[at] = kept[at - 1];
    kept[at] = pages;
  }
  uint64_t from = 0;
  for (size_t i = 0; i <= count; ++i) {
    uint64_t to = i < count ? kept[i].start : kAddressEnd;
    if (to > from) script->next(1)->call(SYS_munmap, from, to - from);
    if (i < count) from = kept[i].end;
  }
}

void move(uint64_t from, uint64_t bytes, uint64_t to, LongScript* script) {
  if (from != to)
    script->next(1)->call(SYS_mremap, from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/// By way of a place that neither has: the old and the new may overlap.
void move_kernel_pages(const KernelPages& to, const MemoryTarget& target, LongScript* script) {
  const KernelPages& from = *target.kernel_pages;
  uint64_t spare = target.spare;
  for (size_t i = 0; i < to.count; spare += from.bytes[i++])
    move(from.start[i], from.bytes[i], spare, script);
  spare = target.spare;
  for (size_t i = 0; i < to.count; spare += from.bytes[i++])
    move(spare, from.bytes[i], to.start[i], script);
}

/// Opens it at the spare descriptor.
void open_file(const char* path, const MemoryTarget& target, LongScript* script) {
  auto number = uint64_t(target.spare_fd);
  Script* list = script->next(3, strlen(path) + 16);
  list->call_flagged(kKeepResult, SYS_open, list->text(path), O_RDONLY | O_CLOEXEC, 0);
  list->call_flagged(kUseResult, SYS_dup3, 0, number, O_CLOEXEC);
  list->call_flagged(kUseResult, SYS_close, 0);
}

bool write_piece(pid_t target, const char* data, uint64_t address, size_t size) {
  return size == 0 || write_memory(target, address, data, size);
}

bool is_zero(const char* page) { return page[0] == 0 && memcmp(page, page + 1, kPage - 1) == 0; }

/// Writes a piece of a run; zero pages that are zero already are left out.
bool write_run(pid_t target, const char* data, const PageRun& piece) {
  uint64_t written = 0;
  for (uint64_t at = 0; piece.anonymous && at < piece.bytes; at += kPage) {
    if (!is_zero(data + at)) continue;
    if (!write_piece(target, data + written, piece.address + written, at - written)) return false;
    written = at + kPage;
  }
  return write_piece(target, data + written, piece.address + written, piece.bytes - written);
}

}  // namespace

bool map_regions(const MemoryMap& map, const MemoryTarget& target, Failure* failure) {
  errno = ENOEXEC;
  const KernelPages& own = *target.kernel_pages;
  bool alike = own.count == map.kernel.count;
  for (size_t i = 0; i < own.count && alike; ++i) alike = own.bytes[i] == map.kernel.bytes[i];
  if (!alike) return failure->set("rebuild a program: its vdso differs from the session's");
  LongScript script(target, failure);
  unmap_others(target, &script);
  move_kernel_pages(map.kernel, target, &script);
  const char* open = nullptr;
  for (size_t i = 0; i < map.region_count; ++i) {
    const Region& region = map.regions[i];
    if (region.path && (!open || strcmp(open, region.path) != 0))
      open_file(open = region.path, target, &script);
    uint32_t protection = region.protection | (region.filled ? PROT_READ | PROT_WRITE : 0u);
    auto fd = region.path ? uint64_t(target.spare_fd) : ~uint64_t{0};
    script.next(1)->call(SYS_mmap, region.start, region.end - region.start, protection,
                         region.flags | MAP_FIXED_NOREPLACE, fd, region.offset);
  }
  if (open) script.next(1)->call(SYS_close, uint64_t(target.spare_fd));
  return script.finish();
}

bool copy_contents(const Base& base, const MemoryMap& map, pid_t source, pid_t target,
                   Failure* failure) {
  static char chunk[kChunkBytes];
  char path[32];
  snprintf(path, sizeof path, "%d/mem", source);
  // Not process_vm_readv, which cannot read what the program itself may not.
  int memory = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  bool done = memory >= 0;
  for (size_t i = 0; i < map.run_count && done; ++i) {
    PageRun rest = map.runs[i];
    while (rest.bytes && done) {
      PageRun piece = rest;
      if (piece.bytes > kChunkBytes) piece.bytes = kChunkBytes;
      done = pread(memory, chunk, piece.bytes, off_t(piece.address)) == ssize_t(piece.bytes) &&
             write_run(target, chunk, piece);
      rest.address += piece.bytes;
      rest.bytes -= piece.bytes;
    }
  }
  if (memory >= 0) close(memory);
  return done || failure->set("copy a program's memory");
}

bool finish_regions(const MemoryMap& map, const MemoryTarget& target, Failure* failure) {
  LongScript script(target, failure);
  for (size_t i = 0; i < map.region_count; ++i) {
    const Region& region = map.regions[i];
    uint64_t bytes = region.end - region.start;
    constexpr uint32_t kBoth = PROT_READ | PROT_WRITE;
    if (region.filled && (region.protection & kBoth) != kBoth)
      script.next(1)->call(SYS_mprotect, region.start, bytes, region.protection);
    for (uint32_t k = 0; k < region.advice_count; ++k)
      script.next(1)->call_flagged(kMayFail, SYS_madvise, region.start, bytes, region.advice[k]);
  }
  open_file(map.program, target, &script);
  prctl_mm_map bounds = map.bounds;
  Script* list = script.next(2, sizeof bounds + sizeof map.auxiliary + 32);
  bounds.auxv = reinterpret_cast<__u64*>(list->data(map.auxiliary, sizeof map.auxiliary));
  bounds.exe_fd = uint32_t(target.spare_fd);
  list->call(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, list->data(&bounds, sizeof bounds),
             sizeof bounds);
  list->call(SYS_close, uint64_t(target.spare_fd));
  return script.finish();
}

}  // namespace espalier::envs::init
