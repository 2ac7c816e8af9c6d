// chain: each file names the next; the last one's value goes into `out`. Files outside the chain
// hold values too, so that only following it tells.
#include <algorithm>

#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

constexpr int kMostFiles = 8;
constexpr int kDecoys = 2;

}  // namespace

void draw_chain(Draft& draft) {
  int last = draft.depth() + 1;
  std::vector<std::string> names = draft.words(kMostFiles);
  std::string value = draft.word();
  draft.say("follow " + names[0]);
  for (int i = 0; i <= last; ++i) {
    draft.file(names[i], i < last ? "goto " + names[i + 1] + "\n" : "got " + value + "\n");
    draft.step("cat " + names[i]);
  }
  for (int i = last + 1; i <= std::min(last + kDecoys, kMostFiles - 1); ++i)
    draft.file(names[i], "got " + draft.word() + "\n");
  draft.step("echo " + value + " > out");
  draft.require_content("out", value);
}

}  // namespace espalier::envs::nursery
