// Directories of the host as layers: images.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "envs/sandbox/init/spawner.h"

namespace espalier::envs::init {

bool attach_layer(uint64_t id, int mount_fd, const char* path, Failure* failure) {
  char directory[64], place[64], from[PATH_MAX];
  snprintf(directory, sizeof directory, "/l/%lx", id);
  snprintf(place, sizeof place, "/l/%lx/u", id);
  if (mkdir(directory, 0700) || mkdir(place, 0700)) return failure->set("mkdir %s", place);
  bool done = false;
  if (mount_fd >= 0) {
    done = sys_move_mount(mount_fd, place) == 0 || failure->set("attach an image's directory");
  } else {
    snprintf(from, sizeof from, "/i/%s", path);
    done = mount(from, place, nullptr, MS_BIND, nullptr) == 0 ||
           failure->set("bind the image layer %s", path);
  }
  if (!done) {
    rmdir(place);
    rmdir(directory);
  }
  return done;
}

bool detach_layer(uint64_t id) {
  char path[64];
  snprintf(path, sizeof path, "/l/%lx/u", id);
  if (umount2(path, MNT_DETACH)) return false;
  rmdir(path);
  snprintf(path, sizeof path, "/l/%lx", id);
  rmdir(path);
  return true;
}

}  // namespace espalier::envs::init
