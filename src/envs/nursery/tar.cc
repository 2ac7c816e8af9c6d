// tar: archives in archives; the innermost file's value goes into `out`.
#include "envs/nursery/archive.h"
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {

void way_tar(Draft& draft, const std::string& name, const std::string& content) {
  std::vector<std::string> archives = draft.words(draft.depth());
  ArchiveMember member{name, content};
  for (auto archive = archives.rbegin(); archive != archives.rend(); ++archive)
    member = {*archive + ".tar", make_tar({member})};
  draft.say("unpack " + member.name);
  draft.file(member.name, member.content);
  for (const std::string& archive : archives) draft.step("tar xvf " + archive + ".tar");
}

void draw_tar(Draft& draft) {
  std::string name = draft.word();
  std::string value = draft.word();
  way_tar(draft, name, "got " + value + "\n");
  draft.step("cat " + name);
  draft.step("echo " + value + " > out");
  draft.require_content("out", value);
}

}  // namespace espalier::envs::nursery
