#include "tree/trace_tree.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <tuple>
#include <type_traits>

#include "common/error.h"
#include "common/sha256.h"

namespace espalier::tree {
namespace {

constexpr std::string_view kPromptTag = "espalier.prompt.1";
constexpr std::string_view kNodeTag = "espalier.node.1";
constexpr std::string_view kTreeTag = "espalier.tree.1";
constexpr uint16_t kPromptEvent = 2;  // EventType::tree_started
constexpr uint16_t kTurnEvent = 3;    // EventType::turn

/// Canonical bytes of an id's preimage: little-endian scalars, arrays behind a 64-bit count.
class Encoder {
 public:
  template <class T>
  void scalar(T value) {
    static_assert(std::is_arithmetic_v<T>);
    unsigned char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    if constexpr (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__) std::reverse(raw, raw + sizeof(T));
    bytes_.append(reinterpret_cast<const char*>(raw), sizeof(T));
  }
  template <class T>
  void array(const std::vector<T>& values) {
    scalar<uint64_t>(values.size());
    if constexpr (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) {
      bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
    } else {
      for (T value : values) scalar(value);
    }
  }
  void text(std::string_view value) {
    scalar<uint64_t>(value.size());
    bytes_.append(value);
  }
  void id(const NodeId& id) {
    bytes_.append(reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size());
  }
  NodeId hash() const { return NodeId{common::sha256(bytes_)}; }

 private:
  std::string bytes_;
};

/// Splits "a/b/c" at its last '/': {"a/b", "c"}; {"", whole} when there is none.
std::pair<std::string, std::string> split_last(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {"", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

std::optional<int> numbered(const std::string& part, char letter) {
  if (part.size() < 2 || part[0] != letter) return std::nullopt;
  int value = 0;
  const char* end = part.data() + part.size();
  auto [stop, error] = std::from_chars(part.data() + 1, end, value);
  if (error != std::errc() || stop != end || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::string NodeId::hex() const { return common::to_hex(bytes.data(), 16); }

std::string NodeId::full_hex() const { return common::to_hex(bytes.data(), bytes.size()); }

bool NodeId::is_zero() const {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

const char* to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::none:
      return "none";
    case Outcome::rewarded:
      return "rewarded";
    case Outcome::agent_timeout:
      return "agent_timeout";
    case Outcome::context_overflow:
      return "context_overflow";
    case Outcome::verifier_failed:
      return "verifier_failed";
    case Outcome::infra_failed:
      return "infra_failed";
    case Outcome::cancelled:
      return "cancelled";
  }
  return "unknown";
}

const char* to_string(ForkOrigin origin) {
  switch (origin) {
    case ForkOrigin::none:
      return "none";
    case ForkOrigin::live:
      return "live";
    case ForkOrigin::proxy:
      return "proxy";
    case ForkOrigin::criu:
      return "criu";
    case ForkOrigin::value:
      return "value";
  }
  return "unknown";
}

const char* to_string(CommandState state) {
  switch (state) {
    case CommandState::none:
      return "none";
    case CommandState::sent:
      return "sent";
    case CommandState::answered:
      return "answered";
  }
  return "unknown";
}

std::vector<int> Tree::roots() const {
  std::vector<int> result;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].parent < 0) result.push_back(static_cast<int>(i));
  return result;
}

std::vector<std::vector<int>> Tree::children() const {
  std::vector<std::vector<int>> result(nodes.size());
  for (size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].parent >= 0) result.at(nodes[i].parent).push_back(static_cast<int>(i));
  return result;
}

std::vector<int> Tree::leaves() const {
  std::vector<bool> inner(nodes.size(), false);
  for (const Node& node : nodes)
    if (node.parent >= 0) inner.at(node.parent) = true;
  std::vector<int> result;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (!inner[i]) result.push_back(static_cast<int>(i));
  return result;
}

bool Tree::is_leaf(int node) const {
  return std::none_of(nodes.begin(), nodes.end(),
                      [node](const Node& other) { return other.parent == node; });
}

void Tree::canonicalise() {
  const int count = static_cast<int>(nodes.size());
  std::vector<std::vector<int>> below(count + 1);  // the last: the prompt's children
  for (int i = 0; i < count; ++i) {
    const int parent = nodes[i].parent;
    ESPALIER_CHECK(parent >= -1 && parent < count, "parent index out of range");
    below[parent < 0 ? count : parent].push_back(i);
  }
  // Branch numbers order siblings; the id breaks ties, so that arrival order never shows.
  auto after = [this](int a, int b) {
    return std::tie(nodes[b].branch, nodes[b].id) < std::tie(nodes[a].branch, nodes[a].id);
  };
  for (auto& siblings : below) std::sort(siblings.begin(), siblings.end(), after);
  std::vector<int> stack = below[count], position(count, -1);
  std::vector<Node> ordered;
  ordered.reserve(count);
  while (!stack.empty()) {
    const int current = stack.back();
    stack.pop_back();
    position[current] = static_cast<int>(ordered.size());
    ordered.push_back(std::move(nodes[current]));
    Node& node = ordered.back();
    if (node.parent >= 0) node.parent = position[node.parent];
    stack.insert(stack.end(), below[current].begin(), below[current].end());
  }
  ESPALIER_CHECK(static_cast<int>(ordered.size()) == count, "parents form a cycle");
  nodes = std::move(ordered);
}

NodeId prompt_id(const Tree& tree) {
  Encoder encoder;
  encoder.text(kPromptTag);
  encoder.scalar(kPromptEvent);
  encoder.scalar(tree.run_seed);
  encoder.scalar(tree.index);
  encoder.scalar(tree.step);
  encoder.text(tree.task);
  encoder.text(tree.family);
  encoder.text(tree.prompt);
  encoder.array(tree.prompt_tokens);
  return encoder.hash();
}

NodeId node_id(const NodeId& parent, const Node& node) {
  Encoder encoder;
  encoder.text(kNodeTag);
  encoder.id(parent);
  encoder.scalar(static_cast<int32_t>(node.branch));
  encoder.scalar(kTurnEvent);
  encoder.scalar(static_cast<int32_t>(node.turn));
  encoder.array(node.prompt_delta);
  encoder.array(node.action);
  encoder.array(node.log_probs);
  encoder.array(node.entropies);
  encoder.array(node.loss_mask);
  encoder.scalar(node.first_entropy);
  encoder.scalar(node.policy_version);
  encoder.scalar(node.sampling_key);
  encoder.text(node.command);
  return encoder.hash();
}

NodeId tree_digest(const Tree& tree) {
  Encoder encoder;
  encoder.text(kTreeTag);
  encoder.id(tree.id);
  encoder.scalar<uint64_t>(tree.nodes.size());
  for (const Node& node : tree.nodes) {
    encoder.id(node.id);
    encoder.scalar(static_cast<int32_t>(node.parent));
    for (const std::string* text :
         {&node.path, &node.observation, &node.fork_rule, &node.snapshot, &node.failure})
      encoder.text(*text);
    encoder.scalar(static_cast<int32_t>(node.exit_code));
    encoder.scalar(static_cast<uint8_t>(node.timed_out));
    if (node.injected) encoder.text("injected");  // left out else: the digests of older trees stay
    encoder.scalar(static_cast<uint8_t>(node.command_state));
    encoder.scalar(static_cast<uint8_t>(node.fork_origin));
    encoder.scalar(static_cast<uint8_t>(node.outcome));
    encoder.scalar(static_cast<uint8_t>(node.reward.has_value()));
    for (double value : {node.reward.value_or(0), node.value, node.advantage, node.weight,
                         node.s_plus, node.s_minus})
      encoder.scalar(value);
  }
  return encoder.hash();
}

std::string root_path(int root) { return "r" + std::to_string(root) + "/t0"; }

std::string child_path(const std::string& parent, int turn, int branch, bool forked) {
  // A turn behind an unforked one takes its place in the path; a branch's own part stays.
  auto [before, last] = split_last(parent);
  std::string path = (numbered(last, 't') ? before : parent) + "/t" + std::to_string(turn);
  if (forked) path += "/b" + std::to_string(branch);
  return path;
}

std::string parent_path(const std::string& path) {
  auto [before, last] = split_last(path);
  if (numbered(last, 'b')) std::tie(before, last) = split_last(before);
  const std::optional<int> turn = numbered(last, 't');
  if (!turn || *turn == 0 || before.empty()) return "";
  auto [upper, branch] = split_last(before);
  if (numbered(branch, 'b') && numbered(split_last(upper).second, 't') == *turn - 1) return before;
  return before + "/t" + std::to_string(*turn - 1);
}

}  // namespace espalier::tree
