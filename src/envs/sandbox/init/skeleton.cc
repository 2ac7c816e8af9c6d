// The lowest layer of every sandbox and the mount namespace each one starts from.
//
// The skeleton is an allow-list: what is not named here of the host cannot be seen inside.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {
namespace {

// Entered in this order; all below the private tmpfs that becomes the spawner's root.
constexpr const char* kSkeletonDirs[] = {
    "bin",     "sbin", "lib",     "lib32",   "lib64",        "libx32",    "usr",
    "etc",     "var",  "var/lib", "var/log", "var/cache",    "var/spool", "dev",
    "dev/pts", "proc", "sys",     "run",     "run/lock",     "home",      "opt",
    "srv",     "mnt",  "media",   "logs",    "logs/verifier"};
constexpr const char* kAgentDirs[] = {"app", "home/agent", "logs/agent", "logs/artifacts"};
constexpr const char* kStickyDirs[] = {"tmp", "var/tmp", "dev/shm"};
constexpr const char* kSystemDirs[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};
constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom", "tty"};

// Files and directories of /etc that programs need and that hold no secrets. Only what everybody
// may read is copied.
constexpr const char* kEtc[] = {"alternatives",
                                "bash.bashrc",
                                "bash_completion.d",
                                "ca-certificates",
                                "ca-certificates.conf",
                                "debian_version",
                                "dpkg",
                                "emacs",
                                "ethertypes",
                                "fonts",
                                "gai.conf",
                                "groff",
                                "host.conf",
                                "inputrc",
                                "issue",
                                "java",
                                "ld.so.cache",
                                "ld.so.conf",
                                "ld.so.conf.d",
                                "localtime",
                                "locale.alias",
                                "locale.conf",
                                "lsb-release",
                                "magic",
                                "magic.mime",
                                "mailcap",
                                "manpath.config",
                                "mime.types",
                                "mke2fs.conf",
                                "nanorc",
                                "networks",
                                "nsswitch.conf",
                                "os-release",
                                "perl",
                                "protocols",
                                "python3",
                                "rpc",
                                "services",
                                "shells",
                                "ssl/certs",
                                "ssl/openssl.cnf",
                                "terminfo",
                                "timezone",
                                "tmux.conf",
                                "vim",
                                "xattr.conf"};

constexpr const char* kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "agent:x:1000:1000:agent:/home/agent:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
constexpr const char* kGroup =
    "root:x:0:\ndaemon:x:1:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n";

bool own(const Base& base, const char* path, uint32_t uid) {
  return lchown(path, base.outer_uid(uid), base.outer_uid(uid)) == 0;
}

bool make_dir(const Base& base, const char* path, mode_t mode, uint32_t uid, Failure* failure) {
  if ((mkdir(path, mode) && errno != EEXIST) || chmod(path, mode) || !own(base, path, uid))
    return failure->set("make %s", path);
  return true;
}

bool make_file(const Base& base, const char* path, const char* text, Failure* failure) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  bool done = fd >= 0 && write_exact(fd, text, strlen(text)) && own(base, path, 0);
  if (!done) failure->set("write %s", path);
  if (fd >= 0) close(fd);
  return done;
}

/// Copies what everybody may read; what cannot be read is left out.
void copy_public(const Base& base, int from, const char* name, const char* to) {
  struct stat st;
  if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW)) return;
  if (S_ISLNK(st.st_mode)) {
    char link[PATH_MAX];
    ssize_t n = readlinkat(from, name, link, sizeof link - 1);
    if (n < 0) return;
    link[n] = 0;
    if (symlink(link, to) == 0) own(base, to, 0);
  } else if (S_ISREG(st.st_mode) && (st.st_mode & S_IROTH)) {
    int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int out = in < 0 ? -1 : open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st.st_mode & 0755);
    static char buffer[64 * 1024];
    for (ssize_t n; out >= 0 && (n = read(in, buffer, sizeof buffer)) > 0;)
      if (!write_exact(out, buffer, size_t(n))) break;
    if (out >= 0) own(base, to, 0);
    if (out >= 0) close(out);
    if (in >= 0) close(in);
  } else if (S_ISDIR(st.st_mode) && (st.st_mode & S_IROTH)) {
    int fd = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR* dir = fd < 0 ? nullptr : fdopendir(fd);
    if (!dir) return;
    mkdir(to, 0755);
    own(base, to, 0);
    while (dirent* entry = readdir(dir)) {
      if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
      char path[PATH_MAX];
      if (snprintf(path, sizeof path, "%s/%s", to, entry->d_name) < int(sizeof path))
        copy_public(base, dirfd(dir), entry->d_name, path);
    }
    closedir(dir);
  }
}

bool fill_etc(const Base& base, int host, Failure* failure) {
  make_dir(base, "skel/etc/ssl", 0755, 0, failure);
  int etc = openat(host, "etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  for (const char* name : kEtc) {
    char to[PATH_MAX];
    snprintf(to, sizeof to, "skel/etc/%s", name);
    if (etc >= 0) copy_public(base, etc, name, to);
  }
  if (etc >= 0) close(etc);
  return make_file(base, "skel/etc/passwd", kPasswd, failure) &&
         make_file(base, "skel/etc/group", kGroup, failure) &&
         make_file(base, "skel/etc/hostname", "sandbox\n", failure) &&
         make_file(base, "skel/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n", failure);
}

bool fill_dev(const Base& base, Failure* failure) {
  for (const char* name : kDevices) {
    char path[64];
    snprintf(path, sizeof path, "skel/dev/%s", name);
    if (!make_file(base, path, "", failure)) return false;
  }
  constexpr const char* kLinks[][2] = {
      {"/proc/self/fd", "skel/dev/fd"}, {"fd/0", "skel/dev/stdin"},
      {"fd/1", "skel/dev/stdout"},      {"fd/2", "skel/dev/stderr"},
      {"pts/ptmx", "skel/dev/ptmx"},    {"/run", "skel/var/run"},
      {"/run/lock", "skel/var/lock"},   {"/proc/self/mounts", "skel/etc/mtab"}};
  for (auto& link : kLinks)
    if (symlink(link[0], link[1]) || !own(base, link[1], 0))
      return failure->set("link %s", link[1]);
  return true;
}

bool fill_skeleton(const Base& base, int host, Failure* failure) {
  if (!make_dir(base, "skel", 0755, 0, failure)) return false;
  for (const char* name : kSkeletonDirs) {
    char path[64];
    snprintf(path, sizeof path, "skel/%s", name);
    char link[PATH_MAX];
    ssize_t n = readlinkat(host, name, link, sizeof link - 1);
    if (n > 0 && !strchr(name, '/') && memcmp(link, "usr/", 4) == 0) {
      link[n] = 0;
      if (symlink(link, path)) return failure->set("link %s", path);
      own(base, path, 0);
    } else if (!make_dir(base, path, 0755, 0, failure)) {
      return false;
    }
  }
  if (!make_dir(base, "skel/root", 0700, 0, failure)) return false;
  for (const char* name : kAgentDirs) {
    char path[64];
    snprintf(path, sizeof path, "skel/%s", name);
    if (!make_dir(base, path, 0755, wire::kSandboxAgent, failure)) return false;
  }
  for (const char* name : kStickyDirs) {
    char path[64];
    snprintf(path, sizeof path, "skel/%s", name);
    if (!make_dir(base, path, 01777, 0, failure)) return false;
  }
  return fill_etc(base, host, failure) && fill_dev(base, failure);
}

/// b/NAME: a read-only, nosuid view of the host's NAME, moved into each sandbox.
bool bind_system(const char* name, Failure* failure) {
  char from[64], to[64];
  snprintf(from, sizeof from, "/%s", name);
  snprintf(to, sizeof to, "b/%s", name);
  if (mkdir(to, 0755)) return failure->set("mkdir %s", to);
  if (mount(from, to, nullptr, MS_BIND | MS_REC, nullptr)) return failure->set("bind %s", from);
  // With what is mounted below it.
  constexpr uint64_t kReadOnly = 1, kNoSetUserId = 2, kNoDevices = 4;
  const struct {
    uint64_t set, clear, propagation, user_namespace;
  } attributes = {kReadOnly | kNoSetUserId | kNoDevices, 0, 0, 0};
  constexpr int kRecursive = 0x8000;
  if (syscall(SYS_mount_setattr, AT_FDCWD, to, kRecursive, &attributes, sizeof attributes))
    return failure->set("make %s read-only", to);
  return true;
}

bool bind_host(int host, Failure* failure) {
  if (mkdir("b", 0700) || mkdir("b/dev", 0700) || mkdir("b/proc", 0700) || mkdir("b/empty", 0555))
    return failure->set("mkdir b");
  if (!bind_system("usr", failure)) return false;
  for (const char* name : kSystemDirs) {
    struct stat st;
    if (fstatat(host, name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISDIR(st.st_mode)) continue;
    if (!bind_system(name, failure)) return false;
  }
  for (const char* name : kDevices) {
    char from[64], to[64];
    snprintf(from, sizeof from, "/dev/%s", name);
    snprintf(to, sizeof to, "b/dev/%s", name);
    int fd = open(to, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    if (fd >= 0) close(fd);
    if (mount(from, to, nullptr, MS_BIND, nullptr)) return failure->set("bind %s", from);
  }
  // A user namespace may mount a proc of its own only while it sees a whole one.
  if (mount("/proc", "b/proc", nullptr, MS_BIND | MS_REC, nullptr))
    return failure->set("bind /proc");
  return true;
}

bool enter_user_namespace(Failure* failure) {
  uid_t uid = geteuid();
  gid_t gid = getegid();
  if (unshare(CLONE_NEWUSER)) return failure->set("unshare(CLONE_NEWUSER)");
  char map[64];
  if (!write_text(AT_FDCWD, "/proc/self/setgroups", "deny"))
    return failure->set("write /proc/self/setgroups");
  snprintf(map, sizeof map, "0 %u 1", gid);
  if (!write_text(AT_FDCWD, "/proc/self/gid_map", map))
    return failure->set("write /proc/self/gid_map");
  snprintf(map, sizeof map, "0 %u 1", uid);
  if (!write_text(AT_FDCWD, "/proc/self/uid_map", map))
    return failure->set("write /proc/self/uid_map");
  return true;
}

bool bind_directory(int fd, const char* to) {
  char from[64];
  snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
  return mount(from, to, nullptr, MS_BIND, nullptr) == 0;
}

/// Puts a tmpfs over an existing directory, fills it and makes it the root.
bool build_root(Base* base, const char* scratch, const char* images, Failure* failure) {
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr))
    return failure->set("make mounts private");
  int host = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  base->proc_fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int scratch_fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  int images_fd = *images ? open(images, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  if (mount("espalier", "/tmp", "tmpfs", MS_NOSUID, "mode=0755,size=256m") || chdir("/tmp"))
    return failure->set("mount a tmpfs over /tmp");
  if (mkdir("l", 0700) || mkdir("m", 0700)) return failure->set("mkdir");
  if (!fill_skeleton(*base, host, failure) || !bind_host(host, failure)) return false;
  if (base->disk_upper && !bind_directory(scratch_fd, "l")) return failure->set("bind %s", scratch);
  if (images_fd >= 0 && (mkdir("i", 0700) || !bind_directory(images_fd, "i")))
    return failure->set("bind %s", images);
  if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
    return failure->set("pivot_root");
  close(scratch_fd);
  if (images_fd >= 0) close(images_fd);
  close(host);
  return true;
}

/// The template namespace is a copy of the spawner's as it is now, before any layer is mounted in
/// it: a sandbox copies a dozen mounts, however many layers there are.
bool keep_template(Base* base, Failure* failure) {
  int ready[2];
  if (pipe2(ready, O_CLOEXEC)) return failure->set("pipe");
  pid_t child = sys_clone(CLONE_NEWNS, nullptr);
  if (child < 0) return failure->set("clone(CLONE_NEWNS)");
  if (child == 0) {
    close(ready[1]);
    char byte;
    (void)!read(ready[0], &byte, 1);
    _exit(0);
  }
  char path[64];
  snprintf(path, sizeof path, "%d/ns/mnt", child);
  base->template_ns = openat(base->proc_fd, path, O_RDONLY | O_CLOEXEC);
  bool done = base->template_ns >= 0 || failure->set("open the template namespace");
  close(ready[0]);
  close(ready[1]);
  waitpid(child, nullptr, 0);
  return done;
}

bool tmpfs_takes_user_xattrs() {
  int fs = sys_fsopen("tmpfs");
  if (fs < 0) return false;
  sys_fsconfig(fs, kFsconfigCreate, nullptr, nullptr);
  int mnt = sys_fsmount(fs, 0);
  close(fs);
  if (mnt < 0) return false;
  int dir = openat(mnt, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool done = dir >= 0 && fsetxattr(dir, "user.espalier", "y", 1, 0) == 0;
  if (dir >= 0) close(dir);
  close(mnt);
  return done;
}

/// False for the root of a user namespace, a container's say, who may map nobody but himself.
bool is_real_root() {
  if (geteuid() != 0) return false;
  char text[128] = {0};
  int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);
  if (fd >= 0 && read(fd, text, sizeof text - 1) < 0) text[0] = 0;
  if (fd >= 0) close(fd);
  unsigned long inside = 1, outside = 1, count = 0;
  sscanf(text, "%lu %lu %lu", &inside, &outside, &count);
  return inside == 0 && outside == 0 && count == 4294967295ul;
}

bool make_user_namespaces(Base* base, Failure* failure) {
  base->user_ns[0] = make_user_namespace(*base, failure);
  if (base->user_ns[0] < 0) return false;
  // As many as the kernel lets nest; without the rest live forks go less deep.
  Failure ignored;
  for (base->user_ns_count = 1; base->user_ns_count <= wire::kMaxDepth; ++base->user_ns_count) {
    int* ns = base->user_ns + base->user_ns_count;
    *ns = nest_user_namespace(*base, ns[-1], &ignored);
    if (*ns < 0) break;
  }
  return true;
}

}  // namespace

bool build_base(const wire::ConfigureRequest& request, const char* scratch, const char* images,
                Base* base, Failure* failure) {
  umask(0);
  base->uid_base = request.uid_base;
  while (prctl(PR_CAPBSET_READ, base->last_capability + 1, 0, 0, 0) >= 0) ++base->last_capability;
  base->root_mode = is_real_root() && unshare(CLONE_NEWNS) == 0;
  if (!base->root_mode) {
    if (!enter_user_namespace(failure)) return false;
    if (unshare(CLONE_NEWNS)) return failure->set("unshare(CLONE_NEWNS)");
  }
  base->disk_upper = request.force_disk_upper || (!base->root_mode && !tmpfs_takes_user_xattrs());
  if (!build_root(base, scratch, images, failure) || !keep_template(base, failure)) return false;
  if (unshare(CLONE_NEWUTS) || sethostname("sandbox", 7)) return failure->set("name the sandboxes");
  return !base->root_mode || make_user_namespaces(base, failure);
}

}  // namespace espalier::envs::init
