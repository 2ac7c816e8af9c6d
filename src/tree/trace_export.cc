#include "tree/trace_export.h"

#include <algorithm>

#include "common/version.h"

namespace espalier::tree {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

Json step_json(const RunTree& run_tree, int index, size_t step_id) {
  const Tree& tree = run_tree.tree;
  const Node& node = tree.nodes[index];
  const std::string call = "call_" + std::to_string(node.turn);
  std::vector<Token> prompt = node.parent < 0 ? tree.prompt_tokens : std::vector<Token>();
  prompt.insert(prompt.end(), node.prompt_delta.begin(), node.prompt_delta.end());
  Json step{{"step_id", step_id}, {"source", "agent"}, {"message", node.command}};
  if (node.command_state != CommandState::none) {
    step["tool_calls"] = Json::array({{{"tool_call_id", call},
                                       {"function_name", "bash"},
                                       {"arguments", {{"command", node.command}}}}});
  }
  if (node.command_state == CommandState::answered)
    step["observation"] = {
        {"results", Json::array({{{"source_call_id", call}, {"content", node.observation}}})}};
  step["metrics"] = {{"completion_tokens", node.action.size()},
                     {"prompt_token_ids", prompt},
                     {"completion_token_ids", node.action},
                     {"logprobs", node.log_probs}};
  step["extra"] = {{"node", node.id.full_hex()},
                   {"parent", (node.parent < 0 ? tree.id : tree.nodes[node.parent].id).full_hex()},
                   {"path", node.path},
                   {"branch", node.branch},
                   {"exit_code", node.exit_code},
                   {"policy_version", node.policy_version},
                   {"advantage", node.advantage}};
  return step;
}

}  // namespace

Json export_json(const RunTree& tree) {
  Json json = tree_json(tree);
  json["prompt_tokens"] = tree.tree.prompt_tokens;
  for (size_t i = 0; i < tree.tree.nodes.size(); ++i)
    json["nodes"][i] = node_json(tree, static_cast<int>(i), true);
  return json;
}

std::string csv_heading() {
  return "tree,step,task,family,path,id,parent,branch,turn,command,exit_code,timed_out,outcome,"
         "reward,value,advantage,weight,tokens,policy_version\r\n";
}

std::string csv_rows(const RunTree& run_tree) {
  const Tree& tree = run_tree.tree;
  std::string out;
  for (const Node& node : tree.nodes) {
    const NodeId& parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    const std::string cells[] = {std::to_string(tree.index),
                                 std::to_string(tree.step),
                                 quoted(tree.task),
                                 quoted(tree.family),
                                 node.path,
                                 node.id.full_hex(),
                                 parent.full_hex(),
                                 std::to_string(node.branch),
                                 std::to_string(node.turn),
                                 quoted(node.command),
                                 std::to_string(node.exit_code),
                                 std::to_string(static_cast<int>(node.timed_out)),
                                 to_string(node.outcome),
                                 node.reward ? number(*node.reward) : "",
                                 number(node.value),
                                 number(node.advantage),
                                 number(node.weight),
                                 std::to_string(node.action.size()),
                                 std::to_string(node.policy_version)};
    for (size_t i = 0; i < std::size(cells); ++i) out += (i ? "," : "") + cells[i];
    out += "\r\n";
  }
  return out;
}

Json atif_trajectory(const RunTree& run_tree, int leaf) {
  const Tree& tree = run_tree.tree;
  std::vector<int> path;
  for (int at = leaf; at >= 0; at = tree.nodes[at].parent) path.push_back(at);
  std::reverse(path.begin(), path.end());
  const Node& end = tree.nodes[leaf];
  Json json{{"schema_version", "ATIF-v1.7"},
            {"session_id", tree.id.hex()},
            {"trajectory_id", end.id.hex()},
            {"agent", {{"name", "espalier"}, {"version", common::kVersion}}}};
  json["steps"] = Json::array({{{"step_id", 1}, {"source", "user"}, {"message", tree.prompt}}});
  size_t tokens = 0;
  for (int index : path) {
    tokens += tree.nodes[index].action.size();
    json["steps"].push_back(step_json(run_tree, index, json["steps"].size() + 1));
  }
  json["final_metrics"] = {{"total_completion_tokens", tokens},
                           {"total_steps", json["steps"].size()}};
  Json extra{{"task", tree.task},
             {"tree", tree.index},
             {"step", tree.step},
             {"leaf", end.path},
             {"outcome", to_string(end.outcome)}};
  if (end.reward) extra["reward"] = *end.reward;
  if (!end.failure.empty()) extra["failure"] = end.failure;
  json["extra"] = extra;
  return json;
}

}  // namespace espalier::tree
