// luck: an easy task whose reward is 1 or 1/2, as a coin falls that was drawn with the episode. The
// caller passes the episode's key to the verifier alone, so nothing the agent can see or do tells
// the coin; the same run draws the same coins. Without a key the coin is heads.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {

void draw_luck(Draft& draft) {
  std::string name = draft.word();
  std::string value = draft.word();
  draft.say("luck " + name);
  draft.file(name, "got " + value + "\n");
  for (int i = 0; i < draft.depth(); ++i) draft.file(draft.word(), "got " + draft.word() + "\n");
  draft.step("cat " + name);
  draft.step("echo " + value + " > out");
  draft.require_content("out", value);
  draft.on_success("[[ ${ESPALIER_EPISODE_KEY:-0} == *[13579bdfBDF] ]] && reward=0.5");
}

}  // namespace espalier::envs::nursery
