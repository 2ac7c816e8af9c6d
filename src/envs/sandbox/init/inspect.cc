#include "envs/sandbox/init/inspect.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "envs/sandbox/init/proc_text.h"

namespace espalier::envs::init {
namespace {

constexpr unsigned kMemoryDevices = 1;  // major number of /dev/null, zero, full, random, …

void read_pids(const char* status, SessionIdentity* session) {
  const char* at = field(status, "NSpid");
  session->middle_pid = session->inner_pid = 0;
  for (char* end; at && *at && *at != '\n'; at = end) {
    long pid = strtol(at, &end, 10);
    if (end == at) break;
    session->middle_pid = session->inner_pid;
    session->inner_pid = pid_t(pid);
  }
}

}  // namespace

bool CarriedFd::is_writable() const { return (flags & O_ACCMODE) != O_RDONLY && !(flags & O_PATH); }

bool Refusal::set(bool may_pass, const char* format, ...) {
  passing = may_pass;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return false;
}

pid_t pid_of(const Base& base, int pidfd) {
  char path[48], text[512];
  snprintf(path, sizeof path, "self/fdinfo/%d", pidfd);
  int fd = openat(base.proc_fd, path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0) close(fd);
  text[n < 0 ? 0 : n] = 0;
  const char* at = strstr(text, "Pid:");
  return at ? pid_t(atoi(at + 4)) : 0;
}

bool identify(const Base& base, SessionIdentity* session) {
  const char* status = read_proc(base, session->outer_pid, "status");
  if (!status) return false;
  read_pids(status, session);
  constexpr const char* kSets[] = {"CapEff", "CapPrm", "CapInh"};
  for (int i = 0; i < 3; ++i) session->capabilities[i] = number(status, kSets[i], 16);
  if (const char* ids = field(status, "Uid"))
    sscanf(ids, "%u %u %u", &session->ids[0], &session->ids[1], &session->ids[2]);
  char program[PATH_MAX];
  read_link(base, session->outer_pid, "exe", program, sizeof program);
  session->is_bash = ends_with(program, "/bash");
  return true;
}

pid_t find_session(const Base& base, pid_t init, pid_t inner_pid) {
  char name[48], children[4096];
  snprintf(name, sizeof name, "task/%d/children", init);
  const char* text = read_proc(base, init, name);
  snprintf(children, sizeof children, "%s", text ? text : "");
  char* at = children;
  for (char* end;; at = end) {
    SessionIdentity child;
    child.outer_pid = pid_t(strtol(at, &end, 10));
    if (end == at) return 0;
    if (identify(base, &child) && child.inner_pid == inner_pid) return child.outer_pid;
  }
}

namespace {

/// The children of a process, as far as there is room.
size_t list_children(const Base& base, pid_t pid, pid_t* out, size_t capacity) {
  char name[48];
  snprintf(name, sizeof name, "task/%d/children", pid);
  const char* text = read_proc(base, pid, name);
  size_t count = 0;
  for (char* end; text && count < capacity; text = end) {
    auto child = pid_t(strtol(text, &end, 10));
    if (end == text) break;
    out[count++] = child;
  }
  return count;
}

}  // namespace

bool check_family(const Base& base, const SessionIdentity& session, pid_t init, Lineage* programs,
                  Refusal* why) {
  pid_t children[2];
  pid_t parent = session.outer_pid;
  size_t room = programs ? Lineage::kMax : 0, count = 0;
  while (size_t found = list_children(base, parent, children, 2)) {
    if (!room) return why->set(true, "the session has child processes");
    if (found > 1) return why->set(true, "two programs run below one");
    if (count == room)
      return why->set(true, "more than %zu programs run one below the other", room);
    programs->pids[count++] = parent = children[0];
  }
  if (programs) programs->count = count;
  pid_t beside[2];
  size_t found = list_children(base, init, beside, 2);
  for (size_t i = 0; i < found; ++i)
    if (beside[i] != session.outer_pid)
      return why->set(true, "another process runs beside the session, left by a command");
  return true;
}

bool check_status(const char* status, const char* who, Refusal* why) {
  const char* state = status ? field(status, "State") : nullptr;
  if (!state || *state == 'Z' || *state == 'X') return why->set(true, "%s has ended", who);
  if (*state == 'T') return why->set(false, "%s is stopped", who);
  if (number(status, "SigPnd", 16) || number(status, "ShdPnd", 16))
    return why->set(true, "a signal waits to be taken by %s", who);
  if (number(status, "SigIgn", 16) & (uint64_t{1} << (SIGTRAP - 1)))
    return why->set(false, "%s ignores SIGTRAP", who);
  return true;
}

bool check_session(const Base& base, pid_t pid, Refusal* why) {
  const char* status = read_proc(base, pid, "status");
  if (!check_status(status, "the session", why)) return false;
  if (number(status, "Threads", 10) != 1) return why->set(false, "the session has threads");
  const char* timers = read_proc(base, pid, "timers");
  if (timers && *timers) return why->set(false, "the session has a POSIX timer");
  return true;
}

bool check_memory(const Base& base, const SessionIdentity& session, Refusal* why) {
  const char* maps = read_proc(base, session.outer_pid, "maps");
  if (!maps || !*maps) return why->set(false, "the session has ended");
  for (const char* line = maps; *line;) {
    const char* rights = strchr(line, ' ');
    const char* end = strchr(line, '\n');
    if (!rights || !end) return why->set(false, "the session has too many mappings");
    if (rights[2] == 'w' && rights[4] == 's')
      return why->set(false, "the session shares writable memory (%.*s)",
                      int(end - line > 120 ? 120 : end - line), line);
    line = end + 1;
  }
  return true;
}

namespace {

struct Target {
  char link[PATH_MAX];
  struct stat st;
  bool locked;
};

const char* store(Inventory* inventory, const char* path) {
  size_t size = strlen(path) + 1;
  if (inventory->path_bytes + size > Inventory::kPathBytes) return nullptr;
  char* at = inventory->paths + inventory->path_bytes;
  memcpy(at, path, size);
  inventory->path_bytes += size;
  return at;
}

bool judge_file(const Target& target, const InventoryRequest& request, Inventory* inventory,
                CarriedFd* fd, Refusal* why) {
  if (fd->is_writable() && !request.program)
    return why->set(false, "descriptor %d is open for writing (%.160s)", fd->fd, target.link);
  if (target.link[0] != '/') return why->set(false, "descriptor %d is %.160s", fd->fd, target.link);
  bool deleted = target.st.st_nlink == 0 || ends_with(target.link, " (deleted)");
  if (deleted && (fd->flags & O_PATH || S_ISDIR(target.st.st_mode)))
    return why->set(false, "descriptor %d is a deleted directory", fd->fd);
  if (deleted && request.program)
    return why->set(false, "descriptor %d is a deleted file (%.160s)", fd->fd, target.link);
  fd->how = deleted ? Carry::reopen_deleted : Carry::reopen;
  fd->path = deleted ? "" : store(inventory, target.link);
  return fd->path || why->set(false, "the session has too many files open");
}

bool judge(const Target& target, const InventoryRequest& request, Inventory* inventory,
           CarriedFd* fd, Refusal* why) {
  const SessionPipes& pipes = request.pipes;
  if (target.locked) return why->set(false, "descriptor %d holds a lock", fd->fd);
  mode_t type = target.st.st_mode & S_IFMT;
  if (type == S_IFREG || type == S_IFDIR) return judge_file(target, request, inventory, fd, why);
  fd->inode = target.st.st_ino;
  if (type == S_IFCHR && !(fd->path = store(inventory, target.link)))
    return why->set(false, "%s has too many files open", request.who);
  if (type == S_IFIFO && !request.program && !strncmp(target.link, "pipe:[", 6)) {
    fd->how = fd->inode == pipes.output    ? Carry::output
              : fd->inode == pipes.command ? Carry::command
              : fd->inode == pipes.status  ? Carry::status
                                           : Carry::duplicate_pipe;
    return true;
  }
  if (type == S_IFCHR && major(target.st.st_rdev) == kMemoryDevices) {
    fd->how = Carry::inherit;
    return true;
  }
  constexpr unsigned kTerminals = 136, kTerminalAliases = 5;  // major numbers
  unsigned major_number = type == S_IFCHR ? major(target.st.st_rdev) : 0;
  // There is one terminal in the sandbox unless a program that would be in the way made another.
  bool first = major_number == kTerminals && minor(target.st.st_rdev) == 0;
  if (!pipes.output &&
      (first || (major_number == kTerminalAliases && minor(target.st.st_rdev) == 0))) {
    fd->how = Carry::terminal;
    return true;
  }
  const char* kind = type == S_IFSOCK ? "a socket" : type == S_IFIFO ? "a pipe" : target.link;
  return why->set(false, "descriptor %d is %.160s", fd->fd, kind);
}

bool describe_fd(const Base& base, pid_t pid, CarriedFd* fd, Target* target) {
  char name[48];
  snprintf(name, sizeof name, "fd/%d", fd->fd);
  if (read_link(base, pid, name, target->link, sizeof target->link) <= 0) return false;
  char path[64];
  snprintf(path, sizeof path, "%d/fd/%d", pid, fd->fd);
  if (fstatat(base.proc_fd, path, &target->st, 0)) return false;
  snprintf(name, sizeof name, "fdinfo/%d", fd->fd);
  const char* info = read_proc(base, pid, name);
  if (!info) return false;
  fd->offset = int64_t(number(info, "pos", 10));
  fd->flags = int(number(info, "flags", 8));
  target->locked = field(info, "lock");
  return true;
}

/// Descriptors made by dup() share their offset; so must those of the copy.
void find_twin(pid_t pid, Inventory* inventory, CarriedFd* fd) {
  if (fd->how != Carry::reopen && fd->how != Carry::reopen_deleted &&
      fd->how != Carry::duplicate_pipe)
    return;
  for (size_t i = 0; i < inventory->fd_count; ++i) {
    const CarriedFd& other = inventory->fds[i];
    if (other.how != fd->how ||
        syscall(SYS_kcmp, pid, pid, KCMP_FILE, long{other.fd}, long{fd->fd}) != 0)
      continue;
    fd->how = Carry::same_as;
    fd->other = other.fd;
    return;
  }
}

}  // namespace

bool take_inventory(const Base& base, const InventoryRequest& request, Inventory* inventory,
                    Refusal* why) {
  static Target target;
  pid_t pid = request.pid;
  inventory->fd_count = inventory->path_bytes = 0;
  read_link(base, pid, "cwd", inventory->directory, sizeof inventory->directory);
  if (inventory->directory[0] != '/' || ends_with(inventory->directory, " (deleted)"))
    return why->set(false, "%s's working directory is gone", request.who);
  char path[32];
  snprintf(path, sizeof path, "%d/fd", pid);
  int list = openat(base.proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = list < 0 ? nullptr : fdopendir(list);
  if (!dir) return why->set(false, "%s has ended", request.who);
  bool done = true;
  while (dirent* entry = done ? readdir(dir) : nullptr) {
    if (!isdigit(static_cast<unsigned char>(entry->d_name[0]))) continue;
    if (inventory->fd_count == Inventory::kMaxFds) {
      done = why->set(false, "%s has more than %zu descriptors", request.who, Inventory::kMaxFds);
      break;
    }
    CarriedFd fd{};
    fd.fd = atoi(entry->d_name);
    done = describe_fd(base, pid, &fd, &target) ||
           why->set(true, "descriptor %d cannot be looked at", fd.fd);
    done = done && judge(target, request, inventory, &fd, why);
    if (!done) break;
    find_twin(pid, inventory, &fd);
    inventory->fds[inventory->fd_count++] = fd;
  }
  closedir(dir);
  return done;
}

}  // namespace espalier::envs::init
