#include "tree/trace_json.h"

namespace espalier::tree {
namespace {

Json number_or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json estimate_json(const Node& node) {
  return {{"value", node.value},
          {"advantage", node.advantage},
          {"weight", node.weight},
          {"s_plus", node.s_plus},
          {"s_minus", node.s_minus}};
}

}  // namespace

Json to_json(const TreeSummary& summary) {
  Json outcomes = Json::object();
  for (const auto& [outcome, count] : summary.outcomes) outcomes[to_string(outcome)] = count;
  return {{"index", summary.index},
          {"step", summary.step},
          {"task", summary.task},
          {"state", to_string(summary.state)},
          {"roots", summary.roots},
          {"turns", summary.turns},
          {"forks", summary.forks},
          {"leaves", summary.leaves},
          {"mean_reward", number_or_null(summary.mean_reward)},
          {"outcomes", outcomes}};
}

Json tree_json(const RunTree& tree) {
  Json json = to_json(summarise(tree));
  json["id"] = tree.tree.id.full_hex();
  json["family"] = tree.tree.family;
  json["prompt"] = tree.tree.prompt;
  json["nodes"] = Json::array();
  for (size_t i = 0; i < tree.tree.nodes.size(); ++i)
    json["nodes"].push_back(node_json(tree, static_cast<int>(i), false));
  return json;
}

Json node_json(const RunTree& run_tree, int index, bool tokens) {
  const Tree& tree = run_tree.tree;
  const Node& node = tree.nodes[index];
  Json json{{"id", node.id.full_hex()},
            {"tree", tree.index},
            {"path", node.path},
            {"parent", (node.parent < 0 ? tree.id : tree.nodes[node.parent].id).full_hex()},
            {"branch", node.branch},
            {"turn", node.turn},
            {"command", node.command},
            {"observation", node.observation},
            {"exit_code", node.exit_code},
            {"timed_out", node.timed_out},
            {"command_state", to_string(node.command_state)},
            {"injected", node.injected},
            {"policy_version", node.policy_version},
            {"sampling_key", node.sampling_key},
            {"first_entropy", node.first_entropy},
            {"fork_rule", node.fork_rule},
            {"fork_origin", to_string(node.fork_origin)},
            {"snapshot", node.snapshot},
            {"outcome", to_string(node.outcome)},
            {"reward", number_or_null(node.reward)},
            {"failure", node.failure}};
  json["estimate"] = run_tree.state == TreeState::stored ? estimate_json(node) : Json(nullptr);
  if (tokens) {
    json["prompt_delta"] = node.prompt_delta;
    json["action"] = node.action;
    json["log_probs"] = node.log_probs;
    json["entropies"] = node.entropies;
    json["loss_mask"] = node.loss_mask;
  }
  return json;
}

std::string dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace espalier::tree
