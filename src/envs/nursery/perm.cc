// perm: a chain of files of which some cannot be read until their owner allows it.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

constexpr double kLocked = 0.6;

}  // namespace

void draw_perm(Draft& draft) {
  int files = draft.depth();
  std::vector<std::string> names = draft.words(files);
  std::string value = draft.word();
  draft.say("read " + names[0]);
  for (int i = 0; i < files; ++i) {
    bool locked = draft.chance(kLocked);
    std::string line = i + 1 < files ? "goto " + names[i + 1] : "got " + value;
    draft.file(names[i], line + "\n", locked ? 0000 : 0644);
    draft.step("cat " + names[i]);
    if (!locked) continue;
    draft.step("chmod +r " + names[i]);
    draft.step("cat " + names[i]);
  }
  draft.step("echo " + value + " > out");
  draft.require_content("out", value);
}

}  // namespace espalier::envs::nursery
