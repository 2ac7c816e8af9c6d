#include "envs/sandbox/init/xattrs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "envs/sandbox/wire.h"

namespace espalier::envs::init {
namespace {

constexpr size_t kMaxNames = 512;
constexpr size_t kMaxListBytes = 64 * 1024;  // XATTR_LIST_MAX

constexpr char kCapability[] = "security.capability";
constexpr char kAccessList[] = "system.posix_acl_access";
constexpr char kDefaultList[] = "system.posix_acl_default";

bool is_carried(const char* name) {
  if (!strncmp(name, "user.overlay.", 13)) return false;
  return !strncmp(name, "user.", 5) || !strcmp(name, kCapability) || !strcmp(name, kAccessList) ||
         !strcmp(name, kDefaultList);
}

void add_to_id(char* at, uint32_t delta) {
  uint32_t id;
  memcpy(&id, at, sizeof id);
  id += delta;
  memcpy(at, &id, sizeof id);
}

/// Adds delta to the ids in a value: the root of file capabilities, the named users and groups of
/// an access list. Both are little-endian on disk and here.
void shift_ids(const char* name, char* value, size_t bytes, uint32_t delta) {
  if (!strcmp(name, kCapability)) {
    constexpr size_t kRootId = 20;  // offset in vfs_ns_cap_data, the revision that has one
    if (bytes == kRootId + sizeof(uint32_t)) add_to_id(value + kRootId, delta);
  } else if (!strncmp(name, "system.", 7)) {
    constexpr size_t kHeader = 4, kEntry = 8;
    constexpr uint16_t kUser = 2, kGroup = 8;
    for (size_t at = kHeader; at + kEntry <= bytes; at += kEntry) {
      uint16_t tag;
      memcpy(&tag, value + at, sizeof tag);
      if (tag == kUser || tag == kGroup) add_to_id(value + at + 4, delta);
    }
  }
}

size_t list_names(int fd, const char** names) {
  static char list[kMaxListBytes];
  ssize_t bytes = flistxattr(fd, list, sizeof list);
  size_t count = 0;
  for (ssize_t at = 0; at < bytes && count < kMaxNames; at += ssize_t(strlen(list + at)) + 1)
    if (is_carried(list + at)) names[count++] = list + at;
  return count;
}

int by_name(const void* a, const void* b) {
  return strcmp(*static_cast<const char* const*>(a), *static_cast<const char* const*>(b));
}

bool names_one(const char* records, size_t bytes, const char* name) {
  wire::PackXattr record;
  for (size_t at = 0; at < bytes; at += sizeof record + record.name_bytes + record.value_bytes) {
    memcpy(&record, records + at, sizeof record);
    if (strlen(name) == record.name_bytes &&
        !memcmp(records + at + sizeof record, name, record.name_bytes))
      return true;
  }
  return false;
}

bool are_whole(const char* records, size_t bytes) {
  for (size_t at = 0; at < bytes;) {
    wire::PackXattr record;
    if (bytes - at < sizeof record) return false;
    memcpy(&record, records + at, sizeof record);
    at += sizeof record;
    if (record.name_bytes == 0 || record.name_bytes > 255 || record.name_bytes > bytes - at ||
        record.value_bytes > bytes - at - record.name_bytes)
      return false;
    at += record.name_bytes + record.value_bytes;
  }
  return true;
}

}  // namespace

ssize_t get_xattrs(int fd, uint32_t uid_base, char* out, size_t capacity) {
  const char* names[kMaxNames];
  size_t count = list_names(fd, names);
  if (count > 1) qsort(names, count, sizeof names[0], by_name);
  size_t used = 0;
  for (size_t i = 0; i < count; ++i) {
    wire::PackXattr record{uint32_t(strlen(names[i])), 0};
    size_t head = sizeof record + record.name_bytes;
    errno = E2BIG;
    if (used + head >= capacity) return -1;
    char* value = out + used + head;
    ssize_t n = fgetxattr(fd, names[i], value, capacity - used - head);
    if (n < 0) return errno = errno == ERANGE ? E2BIG : errno, -1;
    shift_ids(names[i], value, size_t(n), -uid_base);
    record.value_bytes = uint32_t(n);
    memcpy(out + used, &record, sizeof record);
    memcpy(out + used + sizeof record, names[i], record.name_bytes);
    used += head + size_t(n);
  }
  return ssize_t(used);
}

bool set_xattrs(int fd, char* records, size_t bytes, uint32_t uid_base, bool replace) {
  errno = EINVAL;
  if (!are_whole(records, bytes)) return false;
  if (replace) {
    const char* names[kMaxNames];
    size_t count = list_names(fd, names);
    for (size_t i = 0; i < count; ++i)
      if (!names_one(records, bytes, names[i]) && fremovexattr(fd, names[i])) return false;
  }
  wire::PackXattr record;
  for (size_t at = 0; at < bytes; at += sizeof record + record.name_bytes + record.value_bytes) {
    memcpy(&record, records + at, sizeof record);
    char name[256];
    memcpy(name, records + at + sizeof record, record.name_bytes);
    name[record.name_bytes] = 0;
    errno = EINVAL;
    if (!is_carried(name)) return false;
    char* value = records + at + sizeof record + record.name_bytes;
    shift_ids(name, value, record.value_bytes, uid_base);
    if (fsetxattr(fd, name, value, record.value_bytes, 0)) return false;
  }
  return true;
}

}  // namespace espalier::envs::init
