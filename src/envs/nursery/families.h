// The families' functions. A family is one file and one line in registry.cc.
//
// A `way` leads to where a task is done and a `goal` is what is to be done there; the base families
// of the same name consist of one of them, the hard tier of one each.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "envs/nursery/draft.h"

namespace espalier::envs::nursery {

struct Family {
  std::string_view name;
  Tier tier;
  void (*draw)(Draft&);
  std::string_view summary;  // what is asked for, in a few words
};

/// Every family, in the order in which tables show them.
const std::vector<Family>& registry();

// Ways. depth() decides how long they are.
/// A directory a step, each named by the last one's `note`; the last note says `last_note`.
void way_maze(Draft& draft, const std::string& last_note);
/// Needs that `sh run` names one at a time. With `writes_out`, `run` leaves "ok" in `out` once all
/// are met.
void way_fix(Draft& draft, bool writes_out);
/// An archive in an archive …; the innermost file is called `name` and holds `content`.
void way_tar(Draft& draft, const std::string& name, const std::string& content);

// Goals, over a number of files in the draft's present directory.
void goal_find(Draft& draft, int files);
void goal_cfg(Draft& draft, int files);
void goal_most(Draft& draft, int files);

void draw_find(Draft& draft);
void draw_chain(Draft& draft);
void draw_cfg(Draft& draft);
void draw_most(Draft& draft);
void draw_fix(Draft& draft);
void draw_tar(Draft& draft);
void draw_perm(Draft& draft);
void draw_maze(Draft& draft);
void draw_luck(Draft& draft);

}  // namespace espalier::envs::nursery
