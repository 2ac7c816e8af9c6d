// The supervisor program of the sandbox backend: the spawner, and by cloning the init of each
// sandbox. Started by the trainer from a memory file with its socket as descriptor 3.
#include <sys/prctl.h>

#include "envs/sandbox/init/spawner.h"

int main() {
  prctl(PR_SET_NAME, "espalier-spawn", 0, 0, 0);
  espalier::envs::init::sys_close_range(4, ~0u);
  espalier::envs::init::spawner_main(3);
}
