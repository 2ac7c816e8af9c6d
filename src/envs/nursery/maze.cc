// maze: each directory's `note` names the next one, beside a wrong door; the last note's value goes
// into `out` there.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {

void way_maze(Draft& draft, const std::string& last_note) {
  draft.say("walk");
  for (int i = 0; i < draft.depth(); ++i) {
    std::string door = draft.word();
    draft.directory(door);
    draft.directory(draft.word());
    draft.file("note", "dir " + door + "\n");
    draft.step("cat note");
    draft.enter(door);
  }
  draft.file("note", last_note + "\n");
  draft.step("cat note");
}

void draw_maze(Draft& draft) {
  std::string value = draft.word();
  way_maze(draft, "got " + value);
  draft.step("echo " + value + " > out");
  draft.require_content("out", value);
}

}  // namespace espalier::envs::nursery
