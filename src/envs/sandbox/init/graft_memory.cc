#include "envs/sandbox/init/graft_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxBytes = uint64_t{64} << 30;  // mapped: a bound on what is looked through
constexpr size_t kMaxRegions = 4096;
constexpr size_t kPagesPerRead = 4096;

template <class T>
T* append(T** items, size_t* count, size_t* room) {
  if (*count == *room) {
    size_t more = *room ? 2 * *room : 64;
    auto* grown = static_cast<T*>(realloc(*items, more * sizeof(T)));
    if (!grown) return nullptr;
    *items = grown;
    *room = more;
  }
  T* item = &(*items)[(*count)++];
  memset(item, 0, sizeof *item);
  return item;
}

/// The file at the mapping's path is the one that is mapped.
bool is_mapped_file(const Base& base, pid_t pid, const Region& region) {
  char link[80], path[PATH_MAX + 32];
  struct stat mapped, named;
  snprintf(link, sizeof link, "%d/map_files/%lx-%lx", pid, region.start, region.end);
  snprintf(path, sizeof path, "%d/root%s", pid, region.path);
  return fstatat(base.proc_fd, link, &mapped, 0) == 0 &&
         fstatat(base.proc_fd, path, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
         mapped.st_dev == named.st_dev && mapped.st_ino == named.st_ino;
}

struct Line {
  uint64_t start, end, offset;
  char rights[8];
  const char* name;
};

/// The first line of a mapping in smaps; false for the others.
bool parse(char* text, Line* line) {
  int at = 0;
  if (sscanf(text, "%lx-%lx %7s %lx %*s %*s%n", &line->start, &line->end, line->rights,
             &line->offset, &at) != 4 ||
      !at)
    return false;
  text[strcspn(text, "\n")] = 0;
  line->name = text + at + strspn(text + at, " ");
  return true;
}

bool take_kernel_pages(const Line& line, KernelPages* pages) {
  if (pages->count == KernelPages::kMax) return false;
  pages->start[pages->count] = line.start;
  pages->bytes[pages->count++] = line.end - line.start;
  if (!strcmp(line.name, "[vdso]")) pages->vdso = line.start;
  return true;
}

/// A mapping, or the kernel's pages, which are none.
bool take_line(const Line& line, const char* who, MemoryMap* map, Region** region, Refusal* why) {
  *region = nullptr;
  const char* name = line.name;
  if (!strcmp(name, "[vsyscall]")) return true;
  if (!strcmp(name, "[vdso]") || !strncmp(name, "[vvar", 5))
    return take_kernel_pages(line, &map->kernel) || why->set(false, "%s has a strange vdso", who);
  bool anonymous =
      !*name || !strcmp(name, "[heap]") || !strcmp(name, "[stack]") || !strncmp(name, "[anon:", 6);
  if (!anonymous && *name != '/') return why->set(false, "%s maps %.100s", who, name);
  if (map->region_count == kMaxRegions) return why->set(false, "%s has too many mappings", who);
  *region = append(&map->regions, &map->region_count, &map->region_room);
  if (!*region) return why->set(false, "out of memory");
  Region& it = **region;
  it.start = line.start;
  it.end = line.end;
  it.offset = line.offset;
  it.protection = (line.rights[0] == 'r' ? PROT_READ : 0u) |
                  (line.rights[1] == 'w' ? PROT_WRITE : 0u) |
                  (line.rights[2] == 'x' ? PROT_EXEC : 0u);
  it.flags = line.rights[3] == 's' ? MAP_SHARED : MAP_PRIVATE;
  if (anonymous) {
    it.flags |= MAP_ANONYMOUS;
    return it.flags & MAP_PRIVATE || why->set(false, "%s shares memory", who);
  }
  it.path = strdup(name);
  return it.path || why->set(false, "out of memory");
}

/// What smaps says of a mapping beyond its first line.
bool take_flags(const char* flags, const char* who, Region* region, Refusal* why) {
  constexpr const char* kRefused[] = {"lo", "ht", "um", "uw", "ui", "io", "pf", "dp", "ss"};
  constexpr struct {
    const char* name;
    uint32_t advice;
  } kAdvice[] = {{"dc", MADV_DONTFORK},
                 {"dd", MADV_DONTDUMP},
                 {"wf", MADV_WIPEONFORK},
                 {"hg", MADV_HUGEPAGE},
                 {"nh", MADV_NOHUGEPAGE}};
  for (char name[3] = {0}; flags[0] && flags[1]; flags += flags[2] ? 3 : 2) {
    memcpy(name, flags, 2);
    for (const char* refused : kRefused)
      if (!strcmp(name, refused))
        return why->set(false, "%s has memory of a kind that is not carried (%s)", who, name);
    if (!strcmp(name, "gd")) region->flags |= MAP_GROWSDOWN;
    if (!strcmp(name, "nr")) region->flags |= MAP_NORESERVE;
    for (const auto& each : kAdvice)
      if (!strcmp(name, each.name) && region->advice_count < 3)
        region->advice[region->advice_count++] = each.advice;
  }
  return true;
}

bool read_smaps(FILE* file, const char* who, MemoryMap* map, Refusal* why) {
  static char text[PATH_MAX + 256];
  Region* region = nullptr;
  while (fgets(text, sizeof text, file)) {
    Line line;
    if (!strncmp(text, "VmFlags: ", 9)) {
      text[strcspn(text, "\n")] = 0;
      if (region && !take_flags(text + 9, who, region, why)) return false;
    } else if (parse(text, &line) && !take_line(line, who, map, &region, why)) {
      return false;
    }
  }
  return map->kernel.vdso || why->set(false, "%s has no vdso", who);
}

/// Runs of pages of the mapping that are the process's own.
bool find_runs(int pagemap, Region* region, MemoryMap* map) {
  static uint64_t entries[kPagesPerRead];
  constexpr uint64_t kPresent = uint64_t{1} << 63, kSwapped = uint64_t{1} << 62,
                     kOfFile = uint64_t{1} << 61;
  bool anonymous = region->flags & MAP_ANONYMOUS;
  PageRun* run = nullptr;
  for (uint64_t at = region->start; at < region->end;) {
    size_t count = (region->end - at) / kPage;
    if (count > kPagesPerRead) count = kPagesPerRead;
    auto size = ssize_t(count * sizeof *entries);
    if (pread(pagemap, entries, size_t(size), off_t(at / kPage * sizeof *entries)) != size)
      return false;
    for (size_t i = 0; i < count; ++i, at += kPage) {
      bool own = entries[i] & (kPresent | kSwapped) && !(entries[i] & kOfFile);
      if (!own) {
        run = nullptr;
        continue;
      }
      if (!run) {
        run = append(&map->runs, &map->run_count, &map->run_room);
        if (!run) return false;
        *run = {at, 0, anonymous};
        region->filled = true;
      }
      run->bytes += kPage;
      map->run_bytes += kPage;
    }
  }
  return true;
}

/// Where program, data, stack and arguments lie.
bool read_bounds(const Base& base, pid_t pid, MemoryMap* map) {
  const char* text = read_proc(base, pid, "stat");
  text = text ? strrchr(text, ')') : nullptr;
  if (!text) return false;
  uint64_t values[52] = {0};  // numbered as in proc(5)
  char* end;
  text += 4;
  for (int i = 4; i < 52; ++i, text = end) values[i] = strtoull(text, &end, 10);
  prctl_mm_map& bounds = map->bounds;
  bounds.start_code = values[26];
  bounds.end_code = values[27];
  bounds.start_stack = values[28];
  bounds.start_data = values[45];
  bounds.end_data = values[46];
  bounds.start_brk = values[47];
  bounds.arg_start = values[48];
  bounds.arg_end = values[49];
  bounds.env_start = values[50];
  bounds.env_end = values[51];
  return bounds.start_code && bounds.arg_start;
}

bool read_program(const Base& base, pid_t pid, MemoryMap* map) {
  char path[32];
  struct stat running, named;
  read_link(base, pid, "exe", map->program, sizeof map->program);
  snprintf(path, sizeof path, "%d/exe", pid);
  char in_root[PATH_MAX + 32];
  snprintf(in_root, sizeof in_root, "%d/root%s", pid, map->program);
  if (map->program[0] != '/' || fstatat(base.proc_fd, path, &running, 0) ||
      fstatat(base.proc_fd, in_root, &named, AT_SYMLINK_NOFOLLOW) ||
      running.st_dev != named.st_dev || running.st_ino != named.st_ino)
    return false;
  snprintf(path, sizeof path, "%d/auxv", pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, map->auxiliary, sizeof map->auxiliary);
  if (fd >= 0) close(fd);
  map->bounds.auxv_size = n > 0 ? uint32_t(n) : 0;
  return n > 0 && size_t(n) < sizeof map->auxiliary;
}

}  // namespace

bool read_regions(const Base& base, pid_t pid, const char* who, MemoryMap* map, Refusal* why) {
  char path[32];
  snprintf(path, sizeof path, "%d/smaps", pid);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  FILE* file = fd < 0 ? nullptr : fdopen(fd, "r");
  if (!file) return why->set(true, "%s has ended", who);
  static char buffer[64 * 1024];
  setvbuf(file, buffer, _IOFBF, sizeof buffer);
  bool done = read_smaps(file, who, map, why);
  fclose(file);
  return done;
}

bool read_contents(const Base& base, pid_t pid, const char* who, MemoryMap* map, Refusal* why) {
  uint64_t bytes = 0;
  for (size_t i = 0; i < map->region_count; ++i) {
    const Region& region = map->regions[i];
    bytes += region.end - region.start;
    if (region.flags & MAP_SHARED && region.protection & PROT_WRITE)
      return why->set(false, "%s shares writable memory (%.100s)", who, region.path);
    if (region.path && !is_mapped_file(base, pid, region))
      return why->set(false, "%s maps a file that is not there any more (%.100s)", who,
                      region.path);
  }
  if (bytes > kMaxBytes) return why->set(false, "%s maps %lu GiB", who, bytes >> 30);
  char path[32];
  snprintf(path, sizeof path, "%d/pagemap", pid);
  int pagemap = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  bool done = pagemap >= 0;
  for (size_t i = 0; i < map->region_count && done; ++i)
    if (map->regions[i].flags & MAP_PRIVATE) done = find_runs(pagemap, &map->regions[i], map);
  if (pagemap >= 0) close(pagemap);
  done = done && read_bounds(base, pid, map) && read_program(base, pid, map);
  return done || why->set(false, "%s cannot be looked at: %.80s", who, strerror(errno));
}

void free_memory_map(MemoryMap* map) {
  for (size_t i = 0; i < map->region_count; ++i) free(map->regions[i].path);
  free(map->regions);
  free(map->runs);
  *map = {};
}

bool is_free(const MemoryMap& map, uint64_t start, uint64_t bytes) {
  for (size_t i = 0; i < map.region_count; ++i)
    if (map.regions[i].start < start + bytes && start < map.regions[i].end) return false;
  for (size_t i = 0; i < map.kernel.count; ++i)
    if (map.kernel.start[i] < start + bytes && start < map.kernel.start[i] + map.kernel.bytes[i])
      return false;
  return true;
}

}  // namespace espalier::envs::init
