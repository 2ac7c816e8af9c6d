// The overlay mount of a sandbox.
#include <errno.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include "envs/sandbox/init/layers.h"

namespace espalier::envs::init {
namespace {

constexpr const char* kOverlayOptions[][2] = {
    {"index", "off"}, {"metacopy", "off"}, {"redirect_dir", "nofollow"}, {"xino", "off"}};

/// Detached overlay by the new mount calls; working directory is /l, so layers have short names.
int overlay_by_fsconfig(const Base& base, const wire::SpawnRequest& request,
                        const uint64_t* layers) {
  int fs = sys_fsopen("overlay");
  if (fs < 0) return -1;
  char path[64];
  bool done = true;
  for (uint32_t i = 0; i < request.layer_count && done; ++i) {
    snprintf(path, sizeof path, "%lx/u", layers[i]);
    done = sys_fsconfig(fs, kFsconfigSetString, "lowerdir+", path) == 0;
  }
  if (!request.own_root)
    done = done && sys_fsconfig(fs, kFsconfigSetString, "lowerdir+", "../skel") == 0;
  snprintf(path, sizeof path, "%lx/u", request.header.id);
  done = done && sys_fsconfig(fs, kFsconfigSetString, "upperdir", path) == 0;
  snprintf(path, sizeof path, "%lx/w", request.header.id);
  done = done && sys_fsconfig(fs, kFsconfigSetString, "workdir", path) == 0 &&
         sys_fsconfig(fs, kFsconfigSetFlag, "volatile", nullptr) == 0;
  for (auto& option : kOverlayOptions)
    done = done && sys_fsconfig(fs, kFsconfigSetString, option[0], option[1]) == 0;
  if (!base.root_mode) done = done && sys_fsconfig(fs, kFsconfigSetFlag, "userxattr", nullptr) == 0;
  int mnt = -1;
  if (done && sys_fsconfig(fs, kFsconfigCreate, nullptr, nullptr) == 0)
    mnt = sys_fsmount(fs, kMountAttrNosuid | kMountAttrNodev);
  int saved = errno;
  close(fs);
  errno = saved;
  return mnt;
}

/// The same by mount(2), for kernels before 6.7: mounted aside, cloned, detached.
int overlay_by_mount(const Base& base, const wire::SpawnRequest& request, const uint64_t* layers) {
  static char options[4096];
  size_t used = size_t(snprintf(options, sizeof options, "lowerdir="));
  for (uint32_t i = 0; i < request.layer_count && used < sizeof options; ++i)
    used += size_t(snprintf(options + used, sizeof options - used, "%lx/u:", layers[i]));
  if (request.own_root) --used;  // the last colon
  if (used < sizeof options)
    used += size_t(snprintf(options + used, sizeof options - used,
                            "%s,upperdir=%lx/u,workdir=%lx/w,volatile,index=off,metacopy=off,"
                            "redirect_dir=nofollow,xino=off%s",
                            request.own_root ? "" : "../skel", request.header.id, request.header.id,
                            base.root_mode ? "" : ",userxattr"));
  if (used >= sizeof options) {
    errno = E2BIG;
    return -1;
  }
  if (mount("overlay", "/m", "overlay", MS_NOSUID | MS_NODEV, options)) return -1;
  int mnt = sys_open_tree("/m");
  int saved = errno;
  umount2("/m", MNT_DETACH);
  errno = saved;
  return mnt;
}

}  // namespace

int make_overlay(Base* base, const wire::SpawnRequest& request, const uint64_t* layers,
                 Failure* failure) {
  int mnt = -1;
  if (base->long_lowers) {
    mnt = overlay_by_fsconfig(*base, request, layers);
    if (mnt < 0 && errno == EINVAL) base->long_lowers = false;
  }
  if (!base->long_lowers) mnt = overlay_by_mount(*base, request, layers);
  if (mnt < 0) failure->set("mount overlay with %u layers", request.layer_count + 1);
  return mnt;
}

}  // namespace espalier::envs::init
