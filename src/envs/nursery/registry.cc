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
      {"find", Tier::base, draw_find},
      {"chain", Tier::base, draw_chain},
      {"cfg", Tier::base, draw_cfg},
      {"most", Tier::base, draw_most},
      {"fix", Tier::base, draw_fix},
      {"tar", Tier::base, draw_tar},
      {"perm", Tier::base, draw_perm},
      {"maze", Tier::base, draw_maze},
      {"maze+find", Tier::hard, composed<maze, goal_find>},
      {"maze+cfg", Tier::hard, composed<maze, goal_cfg>},
      {"maze+most", Tier::hard, composed<maze, goal_most>},
      {"fix+find", Tier::hard, composed<fix, goal_find>},
      {"fix+cfg", Tier::hard, composed<fix, goal_cfg>},
      {"fix+most", Tier::hard, composed<fix, goal_most>},
      {"tar+find", Tier::hard, composed<tar, goal_find>},
      {"tar+cfg", Tier::hard, composed<tar, goal_cfg>},
      {"tar+most", Tier::hard, composed<tar, goal_most>},
      {"luck", Tier::luck, draw_luck},
  };
  return families;
}

}  // namespace espalier::envs::nursery
