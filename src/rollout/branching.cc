#include "rollout/branching.h"

#include <utility>

namespace espalier::rollout {

tree::ForkOrigin origin_of(envs::ForkKind kind) {
  switch (kind) {
    case envs::ForkKind::live:
      return tree::ForkOrigin::live;
    case envs::ForkKind::proxy:
      return tree::ForkOrigin::proxy;
    case envs::ForkKind::criu:
      return tree::ForkOrigin::criu;
    case envs::ForkKind::value:
      break;
  }
  return tree::ForkOrigin::value;
}

NodeRef add_empty_node(const BranchPoint& at, const std::string& path) {
  tree::Node node;
  node.turn = at.turn;
  node.branch = at.branch;
  node.fork_origin = at.origin;
  node.prompt_delta = at.delta;  // as its siblings have it
  return at.tree->add_turn(at.parent, path, std::move(node));
}

nlohmann::json kinds_of(const std::vector<BranchPoint>& children) {
  nlohmann::json kinds = nlohmann::json::array();
  for (const BranchPoint& child : children)
    kinds.push_back({{"branch", child.branch}, {"kind", tree::to_string(child.origin)}});
  return kinds;
}

nlohmann::json record_of(const Boundary& boundary, const std::vector<BranchPoint>& children) {
  nlohmann::json kinds = kinds_of(children);
  if (!children.empty() && !boundary.beside)  // the episode itself goes on as number 0
    kinds.insert(kinds.begin(),
                 {{"branch", 0}, {"kind", tree::to_string(children.front().origin)}});
  return {{"branches", boundary.branches},
          {"made", children.size()},
          {"first_entropy", boundary.first_entropy},
          {"forks_in_tree", boundary.forks_in_tree},
          {"children", std::move(kinds)}};
}

std::string text_of(const nlohmann::json& detail) {
  return detail.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace espalier::rollout
