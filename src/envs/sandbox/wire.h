// Messages between the trainer, the spawner and the init of each sandbox (SOCK_SEQPACKET, one
// message a packet, file descriptors beside it by SCM_RIGHTS). Both ends are built from this header
// and never outlive one another, so the layout needs no version. Includes nothing but C headers:
// the static supervisor program uses it too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace espalier::envs::wire {

inline constexpr size_t kMaxMessageBytes = 160 * 1024;
inline constexpr size_t kMaxFds = 8;
inline constexpr size_t kMaxTextBytes = 512;
inline constexpr size_t kMaxLayers = 400;  // overlay allows 500 lower directories
inline constexpr uint32_t kMaxDepth = 27;  // of live forks: the kernel nests 31 namespaces

inline constexpr uint32_t kSandboxRoot = 0;      // uid and gid of the sandbox's root
inline constexpr uint32_t kSandboxAgent = 1000;  // uid and gid of the agent

// ---- trainer <-> spawner ----

enum class SpawnerOp : uint32_t {
  configure = 1,  // ConfigureRequest, seccomp program, two paths; replied when the skeleton
                  // stands; reply fd, in root mode: the sandboxes' user namespace
  spawn,  // to a cradle: SpawnRequest, fds: control socket, with reuse_network a network namespace
          // and, for the init of a copy, pidfd of the original's init, link to the keeper; reply
          // value: 1 when the topmost layer was left out, fds: pidfd, root directory and the
          // network namespace if it is another
  add_layer,     // LayerRequest, fd: pack; a new read-only layer holding it; replied when it stands
  merge_layers,  // LayerRequest; a new read-only layer that shows what these show over the base
  seal,          // id: the dead sandbox's upper becomes a read-only layer
  drop,          // id: unmount an upper or a layer; no reply
  is_empty,      // id: reply value 1 when nothing was written to the upper
  export_layer,  // LayerRequest, fd: pack is written into the pipe; replied when it has been
  attach_layer,  // AttachRequest, fd (optional): a directory of the host's becomes a layer
  cradle,        // fds: its channel, cgroup files; a process that waits in those groups
  keeper,        // fd: its channel; a process that freezes and copies sessions
  // to a cradle
  network,  // id: depth; reply fd: a network namespace for a sandbox as deep
  adopt,    // AdoptRequest: move a copied session, and what it started, into this cradle's groups
  // to a keeper; id names the session's sandbox
  freeze,   // FreezeRequest, fd: pidfd of its init; reply value: FreezeOutcome, text: why not
  copy,     // CopyRequest, fds: link to the new init; for a session without a terminal, the
            // copy's output, command and status pipes; for one with programs to be rebuilt, the
            // control groups that these are to be born in;
            // reply value: the copy's pid, extra: its pid where its parent's init sees it
  thaw,     // a frozen session without copies goes on
  release,  // the frozen session is killed; no reply
};

struct SpawnerHeader {
  SpawnerOp op;
  uint32_t reserved;
  uint64_t id;      // of a sandbox's upper or of a layer: one number space
  uint64_t ticket;  // echoed in the reply
};

struct ConfigureRequest {
  SpawnerHeader header;
  uint32_t uid_base;          // root mode: sandbox uid 0 is this uid outside
  uint32_t seccomp_bytes;     // struct sock_filter[] follows, then the paths of the scratch
                              // directory and of the image cache ("": none), NUL-terminated
  uint32_t force_disk_upper;  // tests: behave as a kernel whose tmpfs lacks user xattrs
  uint32_t reserved;
};

struct TerminalShape {
  uint16_t columns;
  uint16_t rows;
};

struct SpawnRequest {
  SpawnerHeader header;
  uint64_t upper_bytes;      // 0: no cap
  uint64_t upper_inodes;     // 0: no cap
  uint64_t data_limit;       // RLIMIT_DATA, 0: none
  uint32_t process_limit;    // RLIMIT_NPROC, 0: none
  uint32_t network;          // 1: a way out is coming: close all but the public ranges
  uint32_t reuse_network;    // 1: the one sent along, if it is as new
  uint32_t leave_out_empty;  // 1: the topmost layer, should nothing be in it
  uint32_t own_root;      // 1: the layers are a whole root: no skeleton, nothing of the host's /usr
  uint32_t layer_count;   // uint64_t ids follow, topmost first; the skeleton is implied
  uint32_t depth;         // of live forks above: which user namespace it lives in
  int32_t shell_pid;      // of the session that is copied into it; 0: it starts its own
  uint64_t shell_output;  // inode of the copy's output pipe
  TerminalShape terminal;  // of the copy's terminal, no columns: it has none; its master is sent
                           // with terminal
  int32_t cpu;             // where to bring it up; -1: anywhere
  uint32_t root;           // 1: the copied session is the sandbox's root
};

struct AdoptRequest {
  SpawnerHeader header;
  int32_t pid;
  uint32_t reserved;
};

struct FreezeRequest {
  SpawnerHeader header;
  int32_t outer_pid;  // the session's, as the trainer sees it; 0: the child of init with shell_pid
  int32_t shell_pid;  // the session's, as its init sees it
  int32_t cpu;        // where to do it
  uint32_t reserved;
  uint64_t output;  // inodes of its pipes, 0: it has a terminal
  uint64_t command;
  uint64_t status;
};

enum FreezeOutcome : uint32_t {
  kFrozen = 1,
  kUpperEmpty = 2,    // with kFrozen: nothing was written since the last fork
  kBusy = 4,          // something is just ending: worth another try
  kNotCarried = 8,    // something a copy would lack
  kUnsupported = 16,  // this machine does not let sessions be copied
  kIsBash = 32,       // with the last three: the session is bash
  kRebuilt = 64,      // with kFrozen: programs below the session are rebuilt below its copies
};

struct CopyRequest {
  SpawnerHeader header;
  uint32_t depth;  // of the copy
  int32_t cpu;     // where to do it
  uint32_t group_count;
  uint32_t reserved;
};

enum LayerFlags : uint32_t {
  kLayerExact = 1,  // the pack is of a layer: whiteouts stay though the base has nothing there
  kLayerEnded = 2,  // refused unless the pack ends with its end mark
};

struct LayerRequest {
  SpawnerHeader header;
  uint64_t bytes;  // size of the file system to make, 0: no cap
  uint64_t inodes;
  uint32_t flags;        // add_layer
  uint32_t layer_count;  // merge_layers: uint64_t ids follow, topmost first
  uint32_t base_count;   // then the ids of the image's layers, none: the skeleton is the base
  uint32_t reserved;
};

/// The layer is the detached mount that comes as a descriptor, else the directory at the path below
/// the image cache (NUL-terminated, follows).
struct AttachRequest {
  SpawnerHeader header;
};

struct SpawnerReply {
  SpawnerHeader header;
  int32_t error;  // errno, 0: done
  uint32_t value;
  uint64_t extra;
  char text[kMaxTextBytes];  // what failed, when error is set
};

enum ConfigureFlags : uint32_t {
  kModeRoot = 1,        // shifted uids, mounts made by the real root
  kModeDiskUpper = 2,   // uppers are directories on disk: no size cap
  kModeDepthShift = 8,  // from this bit on: how many nested user namespaces there are
};

// ---- trainer <-> init ----

enum class InitOp : uint32_t {
  exec = 1,  // ExecRequest, fds; replies: started, later exited
  put,       // PutRequest, fd: pack; reply: done
  inspect,   // reply: done, value = processes beside init and shell, text = why the shell is not
             // idle
  kill,      // KillRequest; reply: done, value = processes left
  hold,      // the session is frozen; from now on processes that end are reported by reaped
  reaped,    // value = wait status, ticket = pid
  terminal,  // fd: master of the terminal that a copied session has
  started,   // value = pid
  exited,    // value = wait status
  done,
  failed,  // set-up of the sandbox failed: text says where; init is gone
};

enum ExecFlags : uint32_t {
  kExecShell =
      1,  // the session's shell, its output first of fds: spared by kill(others), seen by inspect
  kExecAsRoot = 2,    // the sandbox's root instead of the agent
  kExecTerminal = 4,  // standard descriptors are a new terminal, which the process's session has;
                      // its master comes with `started`
};

struct InitHeader {
  InitOp op;
  uint32_t ticket;
};

struct ExecRequest {
  InitHeader header;
  uint32_t flags;
  uint32_t fd_count;  // fds[i] becomes descriptor targets[i]
  int32_t targets[kMaxFds];
  uint32_t argv_count;
  uint32_t env_count;
  uint32_t string_bytes;  // cwd, argv, env: NUL-terminated strings follow
  TerminalShape terminal;
};

struct PutRequest {
  InitHeader header;
  uint32_t replace;     // 1: remove what is at path first
  uint32_t path_bytes;  // directory, NUL-terminated, follows
};

struct KillRequest {
  InitHeader header;
  uint32_t all;  // 1: the shell too
};

struct InitReply {
  InitHeader header;
  int32_t error;  // errno
  int32_t value;
  char text[kMaxTextBytes];
};

// ---- packs: a directory tree as a stream of entries ----

inline constexpr uint32_t kPackMagic = 0x4b505345;  // "ESPK"
inline constexpr uint32_t kPackEnd = 0x45505345;    // "ESPE": in the place of the magic, no entry
inline constexpr size_t kPackMaxXattrBytes = 192 * 1024;  // of one entry

enum PackFlags : uint32_t {
  kPackOpaque = 1,    // overlay's "nothing below this directory shows"
  kPackCovers = 2,    // on export, of directories and whiteouts: the base has this path
  kPackSame = 4,      // on export, of directories: the base's has the same owner and mode
  kPackSparse = 8,    // of a file: PackSegments take the place of the content
  kPackHardLink = 16  // the same file as an earlier entry: its path takes the place of the content
};

/// An entry; its path (relative, no "..", no NUL), extended attributes and content follow. Content
/// is `size` bytes: of a file, a symlink's target, or as the flags say. Directories come before
/// what is in them. A character device 0:0 is a whiteout.
struct PackEntry {
  uint32_t magic;
  uint32_t mode;  // type and permissions, as st_mode
  uint32_t uid;   // as seen inside the sandbox
  uint32_t gid;
  int64_t mtime_s;
  uint32_t mtime_ns;
  uint32_t flags;
  uint64_t size;
  uint32_t path_bytes;
  uint32_t xattr_bytes;  // PackXattrs, sorted by name
};

/// Name and value follow. Ids in values are as seen inside the sandbox.
struct PackXattr {
  uint32_t name_bytes;
  uint32_t value_bytes;
};

/// A piece of a sparse file, ascending; `bytes` bytes follow. One of no bytes ends the file.
struct PackSegment {
  uint64_t offset;
  uint64_t bytes;
};

}  // namespace espalier::envs::wire
