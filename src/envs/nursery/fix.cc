// fix: `sh run` names what it needs, one need at a time, until all are met. The verifier looks at
// the needs themselves, so that writing "ok" into `out` by hand earns nothing.
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

struct Need {
  const char* kind;    // as `run` says it
  const char* test;    // bash and sh test operator
  const char* remedy;  // command that meets it
};

constexpr Need kNeeds[] = {
    {"file", "-f", "touch "}, {"dir", "-d", "mkdir "}, {"exec", "-x", "chmod +x "}};
constexpr int kExec = 2;

}  // namespace

void way_fix(Draft& draft, bool writes_out) {
  std::string script = "t() { [ $1 $3 ] || { echo need $2 $3; exit 1; }; }\n";
  draft.say("run");
  for (int i = 0; i < draft.depth(); ++i) {
    int drawn = draft.range(0, 2);
    const Need& need = kNeeds[drawn];
    std::string name = draft.word();
    if (drawn == kExec) {
      draft.file(name, "#\n");
      draft.require("-f " + name);
    }
    script += std::string("t ") + need.test + " " + need.kind + " " + name + "\n";
    draft.require(std::string(need.test) + " " + name);
    draft.step("sh run");
    draft.step(need.remedy + name);
  }
  draft.step("sh run");
  if (writes_out) {
    script += "echo ok > out\n";
    draft.require_content("out", "ok");
  }
  draft.file("run", script + "echo ok\n");
}

void draw_fix(Draft& draft) { way_fix(draft, true); }

}  // namespace espalier::envs::nursery
