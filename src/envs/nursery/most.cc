// most: which file has the most lines with a word? It becomes `out`.
#include <algorithm>

#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

constexpr int kMostLines = 6;

}  // namespace

void goal_most(Draft& draft, int files) {
  std::string counted = draft.word();
  std::vector<int> counts = draft.distinct(files, 0, kMostLines);
  auto target = std::max_element(counts.begin(), counts.end()) - counts.begin();
  std::vector<std::string> names = draft.words(files);
  for (int i = 0; i < files; ++i) {
    std::string content;
    for (int line = 0; line < counts[i]; ++line) content += counted + "\n";
    content += draft.word() + "\n";
    draft.file(names[i], content);
    if (i == target) draft.require_content("out", content);
  }
  draft.say("most " + counted);
  draft.step("grep -c " + counted + " *");
  draft.step("cp " + names[target] + " out");
}

void draw_most(Draft& draft) { goal_most(draft, draft.range(2, 2 + draft.depth())); }

}  // namespace espalier::envs::nursery
