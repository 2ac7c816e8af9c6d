#include "envs/sandbox/init/proc_text.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

namespace espalier::envs::init {

const char* read_proc(const Base& base, pid_t pid, const char* name) {
  static char text[256 * 1024];
  char path[96];
  snprintf(path, sizeof path, "%d/%s", pid, name);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return nullptr;
  size_t used = 0;
  for (ssize_t n;
       used + 1 < sizeof text && (n = read(fd, text + used, sizeof text - 1 - used)) > 0;)
    used += size_t(n);
  close(fd);
  text[used] = 0;
  return text;
}

ssize_t read_link(const Base& base, pid_t pid, const char* name, char* out, size_t size) {
  char path[64];
  snprintf(path, sizeof path, "%d/%s", pid, name);
  ssize_t n = readlinkat(base.proc_fd, path, out, size - 1);
  out[n < 0 ? 0 : n] = 0;
  return n;
}

const char* field(const char* text, const char* name) {
  size_t length = strlen(name);
  for (const char* line = text; line; line = strchr(line, '\n')) {
    if (*line == '\n') ++line;
    if (!strncmp(line, name, length) && line[length] == ':') {
      line += length + 1;
      return line + strspn(line, " \t");
    }
  }
  return nullptr;
}

uint64_t number(const char* text, const char* name, int radix) {
  const char* value = field(text, name);
  return value ? strtoull(value, nullptr, radix) : 0;
}

pid_t innermost_id(const char* text, const char* name) {
  const char* at = field(text, name);
  pid_t last = 0;
  for (char* end; at && *at && *at != '\n'; at = end) {
    long value = strtol(at, &end, 10);
    if (end == at) break;
    last = pid_t(value);
  }
  return last;
}

bool ends_with(const char* text, const char* end) {
  size_t length = strlen(text), wanted = strlen(end);
  return length >= wanted && !strcmp(text + length - wanted, end);
}

}  // namespace espalier::envs::init
