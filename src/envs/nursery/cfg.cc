// cfg: one setting is to be changed, in whichever file has it; the other files are to stay as they
// are.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {

void goal_cfg(Draft& draft, int files) {
  int target = draft.range(0, files - 1);
  std::vector<int> change = draft.distinct(2, 1, 9);
  std::vector<std::string> names = draft.words(files);
  std::vector<std::string> keys = draft.keys(files);
  std::string before = keys[target] + "=" + std::to_string(change[0]);
  std::string after = keys[target] + "=" + std::to_string(change[1]);
  for (int i = 0; i < files; ++i) {
    std::string line = i == target ? before : keys[i] + "=" + std::to_string(draft.range(1, 9));
    draft.file(names[i], line + "\n");
    draft.require_content(names[i], i == target ? after : line);
  }
  draft.say("set " + after);
  draft.step("grep " + keys[target] + " *");
  draft.step("sed -i s/" + before + "/" + after + "/ " + names[target]);
}

void draw_cfg(Draft& draft) { goal_cfg(draft, draft.range(2, 4)); }

}  // namespace espalier::envs::nursery
