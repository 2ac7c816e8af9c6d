// find: which file mentions a word? It becomes `out`.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {

void goal_find(Draft& draft, int files) {
  int target = draft.range(0, files - 1);
  std::vector<std::string> names = draft.words(files);
  std::vector<std::string> topics = draft.words(files);
  for (int i = 0; i < files; ++i) {
    std::string content = topics[i] + " " + draft.keys(1).front() + "\n";
    draft.file(names[i], content);
    if (i == target) draft.require_content("out", content);
  }
  draft.say("find " + topics[target]);
  draft.step("grep -l " + topics[target] + " *");
  draft.step("cp " + names[target] + " out");
}

void draw_find(Draft& draft) { goal_find(draft, draft.range(2, 5)); }

}  // namespace espalier::envs::nursery
