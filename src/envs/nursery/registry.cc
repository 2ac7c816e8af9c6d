// The families there are: one line each.
#include "common/error.h"
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

// The hard tier: a way, then a goal at its end. Where the way does not change directory the
// verifier asks for its own result as well.
constexpr int kFewest = 2, kMost = 4;

void maze(Draft& draft) { way_maze(draft, "ok"); }

void fix(Draft& draft) { way_fix(draft, false); }

void tar(Draft& draft) {
  std::string mark = draft.word();
  way_tar(draft, "ok", mark + "\n");
  draft.require_content("ok", mark);
}

template <void (*way)(Draft&), void (*goal)(Draft&, int)>
void composed(Draft& draft) {
  way(draft);
  goal(draft, draft.range(kFewest, kMost));
}

}  // namespace

const std::vector<Family>& registry() {
  static const std::vector<Family> families = {
      {"find", Tier::base, draw_find, "copy the file that mentions a word"},
      {"chain", Tier::base, draw_chain, "follow files that name one another to a value"},
      {"cfg", Tier::base, draw_cfg, "change one setting, wherever it is"},
      {"most", Tier::base, draw_most, "copy the file with the most lines of a word"},
      {"fix", Tier::base, draw_fix, "give a script what it needs, need by need"},
      {"tar", Tier::base, draw_tar, "unpack archives in archives to a value"},
      {"perm", Tier::base, draw_perm, "follow files of which some cannot be read yet"},
      {"maze", Tier::base, draw_maze, "walk through directories by their notes to a value"},
      {"maze+find", Tier::hard, composed<maze, goal_find>,
       "walk by the notes, then copy the file that mentions a word"},
      {"maze+cfg", Tier::hard, composed<maze, goal_cfg>,
       "walk by the notes, then change one setting, wherever it is"},
      {"maze+most", Tier::hard, composed<maze, goal_most>,
       "walk by the notes, then copy the file with the most lines of a word"},
      {"fix+find", Tier::hard, composed<fix, goal_find>,
       "meet a script's needs, then copy the file that mentions a word"},
      {"fix+cfg", Tier::hard, composed<fix, goal_cfg>,
       "meet a script's needs, then change one setting, wherever it is"},
      {"fix+most", Tier::hard, composed<fix, goal_most>,
       "meet a script's needs, then copy the file with the most lines of a word"},
      {"tar+find", Tier::hard, composed<tar, goal_find>,
       "unpack archives in archives, then copy the file that mentions a word"},
      {"tar+cfg", Tier::hard, composed<tar, goal_cfg>,
       "unpack archives in archives, then change one setting, wherever it is"},
      {"tar+most", Tier::hard, composed<tar, goal_most>,
       "unpack archives in archives, then copy the file with the most lines of a word"},
      {"luck", Tier::luck, draw_luck, "an easy value; a hidden coin decides half of the reward"},
  };
  return families;
}

}  // namespace espalier::envs::nursery
