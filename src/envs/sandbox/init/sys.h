// Thin layer over system calls for the static supervisor: no exceptions, no allocation on the hot
// path, no libstdc++ run time.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

namespace espalier::envs::init {

// Kernel constants by number: the headers that hold them clash with one another on some
// distributions.
inline constexpr unsigned kFsopenCloexec = 1, kFsmountCloexec = 1;
inline constexpr unsigned kFsconfigSetFlag = 0, kFsconfigSetString = 1, kFsconfigCreate = 6;
inline constexpr unsigned kMoveMountFromEmptyPath = 4;
inline constexpr unsigned kOpenTreeClone = 1;
inline constexpr unsigned kMountAttrNosuid = 2, kMountAttrNodev = 4;

int sys_fsopen(const char* type);
int sys_fsconfig(int fd, unsigned command, const char* key, const char* value);
int sys_fsmount(int fd, unsigned attributes);
int sys_move_mount(int from_fd, const char* to);
int sys_open_tree(const char* path);
int sys_close_range(unsigned first, unsigned last);
/// fork with namespaces; pidfd may be null.
pid_t sys_clone(uint64_t flags, int* pidfd);
int sys_capset(uint64_t effective_permitted, uint64_t inheritable);

/// Why a step failed: errno and a text "what: strerror". Kept where the caller can send it on.
struct Failure {
  int error = 0;
  char text[512] = {0};
  /// Records errno and a printf-style description; returns false.
  bool set(const char* format, ...) __attribute__((format(printf, 2, 3)));
};

/// A packet with descriptors. False on error (errno).
bool send_packet(int socket, const void* data, size_t size, const int* fds, size_t fd_count);
/// Bytes received, 0 at end of stream, -1 on error. Descriptors are close-on-exec; the unused of
/// fds are -1.
ssize_t receive_packet(int socket, void* data, size_t capacity, int* fds, size_t* fd_count);

bool read_exact(int fd, void* data, size_t size);
bool write_exact(int fd, const void* data, size_t size);
bool write_text(int dir_fd, const char* path, const char* text);

/// Removes a file or a tree below dir_fd without following symlinks or crossing mounts. Absent is
/// fine.
bool remove_tree(int dir_fd, const char* name);
/// mkdir -p below dir_fd, symlinks followed.
bool make_directories(int dir_fd, const char* path, mode_t mode);

}  // namespace espalier::envs::init
