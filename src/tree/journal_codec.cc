#include "tree/journal_codec.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "common/crc32c.h"
#include "common/error.h"
#include "events.pb.h"

namespace espalier::tree {
namespace {

constexpr std::string_view kMagic = "ESPJRNL\n";
constexpr uint32_t kVersion = 1;

template <class T>
void put(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
}

template <class T>
T get(std::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= uint64_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return static_cast<T>(value);
}

std::string id_bytes(const NodeId& id) {
  if (id.is_zero()) return "";
  return {reinterpret_cast<const char*>(id.bytes.data()), id.bytes.size()};
}

NodeId id_from(const std::string& bytes) {
  NodeId id;
  if (bytes.empty()) return id;
  if (bytes.size() != id.bytes.size())
    throw common::StoreError("journal record: a node id of " + std::to_string(bytes.size()) +
                             " bytes; allowed: 32");
  std::memcpy(id.bytes.data(), bytes.data(), bytes.size());
  return id;
}

template <class Enum>
Enum enum_from(uint32_t value, Enum last, const char* what) {
  if (value > static_cast<uint32_t>(last))
    throw common::StoreError(std::string("journal record: ") + what + " " + std::to_string(value) +
                             "; allowed: 0 to " + std::to_string(static_cast<int>(last)));
  return static_cast<Enum>(value);
}

// Empty text is left unset: setting it would allocate.
void to_proto(const Node& node, proto::Node& out) {
  out.set_branch(node.branch);
  out.set_turn(node.turn);
  out.mutable_prompt_delta()->Add(node.prompt_delta.begin(), node.prompt_delta.end());
  out.mutable_action()->Add(node.action.begin(), node.action.end());
  out.mutable_log_probs()->Add(node.log_probs.begin(), node.log_probs.end());
  out.mutable_entropies()->Add(node.entropies.begin(), node.entropies.end());
  if (!node.loss_mask.empty()) out.set_loss_mask(node.loss_mask.data(), node.loss_mask.size());
  out.set_first_entropy(node.first_entropy);
  out.set_policy_version(node.policy_version);
  out.set_sampling_key(node.sampling_key);
  if (!node.command.empty()) out.set_command(node.command);
  if (!node.observation.empty()) out.set_observation(node.observation);
  out.set_exit_code(node.exit_code);
  out.set_timed_out(node.timed_out);
  out.set_fork_origin(static_cast<uint32_t>(node.fork_origin));
  if (!node.fork_rule.empty()) out.set_fork_rule(node.fork_rule);
  if (!node.snapshot.empty()) out.set_snapshot(node.snapshot);
  out.set_outcome(static_cast<uint32_t>(node.outcome));
  if (node.reward) out.set_reward(*node.reward);
  if (!node.failure.empty()) out.set_failure(node.failure);
}

Node from_proto(const proto::Node& in) {
  Node node;
  node.branch = in.branch();
  node.turn = in.turn();
  node.prompt_delta.assign(in.prompt_delta().begin(), in.prompt_delta().end());
  node.action.assign(in.action().begin(), in.action().end());
  node.log_probs.assign(in.log_probs().begin(), in.log_probs().end());
  node.entropies.assign(in.entropies().begin(), in.entropies().end());
  node.loss_mask.assign(in.loss_mask().begin(), in.loss_mask().end());
  node.first_entropy = in.first_entropy();
  node.policy_version = in.policy_version();
  node.sampling_key = in.sampling_key();
  node.command = in.command();
  node.observation = in.observation();
  node.exit_code = in.exit_code();
  node.timed_out = in.timed_out();
  node.fork_origin = enum_from(in.fork_origin(), ForkOrigin::value, "fork origin");
  node.fork_rule = in.fork_rule();
  node.snapshot = in.snapshot();
  node.outcome = enum_from(in.outcome(), Outcome::cancelled, "outcome");
  if (in.has_reward()) node.reward = in.reward();
  node.failure = in.failure();
  return node;
}

void to_proto(const Tree& tree, proto::Header& out) {
  out.set_task(tree.task);
  out.set_family(tree.family);
  out.set_step(tree.step);
  out.set_run_seed(tree.run_seed);
  out.set_id(id_bytes(tree.id));
  out.set_prompt(tree.prompt);
  out.mutable_prompt_tokens()->Add(tree.prompt_tokens.begin(), tree.prompt_tokens.end());
}

Tree from_proto(const proto::Header& in) {
  Tree tree;
  tree.task = in.task();
  tree.family = in.family();
  tree.step = in.step();
  tree.run_seed = in.run_seed();
  tree.id = id_from(in.id());
  tree.prompt = in.prompt();
  tree.prompt_tokens.assign(in.prompt_tokens().begin(), in.prompt_tokens().end());
  return tree;
}

proto::Record to_record(const Event& event) {
  proto::Record record;
  record.set_tree_index(event.tree_index);
  if (!event.node.is_zero()) record.set_node(id_bytes(event.node));
  if (!event.parent.is_zero()) record.set_parent(id_bytes(event.parent));
  if (!event.path.empty()) record.set_path(event.path);
  if (!event.text.empty()) record.set_text(event.text);
  record.set_time_us(event.time_us);
  switch (event.type) {
    case EventType::turn:
    case EventType::observation:
    case EventType::fork:
    case EventType::snapshot:
    case EventType::verdict:
    case EventType::failure:
      to_proto(event.payload, *record.mutable_payload());
      break;
    case EventType::tree_started:
      to_proto(event.header, *record.mutable_header());
      break;
    default:
      break;
  }
  return record;
}

uint32_t frame_crc(std::string_view head, std::string_view payload) {
  // length, type and flags stand around the checksum's own place.
  const uint32_t length_crc = common::crc32c(head.substr(0, 4));
  const uint32_t crc = common::crc32c(payload, common::crc32c(head.substr(8, 4), length_crc));
  return ((crc >> 15) | (crc << 17)) +
         0xA282EAD8U;  // masked: payloads may hold checksums themselves
}

}  // namespace

std::string file_header() {
  std::string header(kMagic);
  put(header, kVersion);
  put(header, common::masked_crc32c(header));
  return header;
}

std::string check_file_header(std::string_view bytes) {
  if (bytes.substr(0, kMagic.size()) != kMagic) return "no journal: it does not start with ESPJRNL";
  if (get<uint32_t>(bytes, 12) != common::masked_crc32c(bytes.substr(0, 12)))
    return "the file header's checksum does not match";
  const uint32_t version = get<uint32_t>(bytes, 8);
  if (version == kVersion) return "";
  return "format version " + std::to_string(version) + "; this program reads version " +
         std::to_string(kVersion);
}

Frame parse_frame(std::string_view bytes) {
  return {get<uint16_t>(bytes, 8), get<uint32_t>(bytes, 0), get<uint32_t>(bytes, 4)};
}

bool frame_matches(std::string_view bytes, std::string_view payload) {
  return frame_crc(bytes, payload) == get<uint32_t>(bytes, 4);
}

void encode_record(const Event& event, std::string& out) {
  const proto::Record record = to_record(event);
  const size_t length = record.ByteSizeLong();
  if (length > kMaxPayloadBytes)
    throw common::StoreError("append to journal: " + std::string(to_string(event.type)) +
                             " event of " + std::to_string(length) +
                             " bytes; allowed: " + std::to_string(kMaxPayloadBytes));
  const size_t start = out.size();
  out.reserve(start + kFrameBytes + length);
  put(out, static_cast<uint32_t>(length));
  put(out, uint32_t{0});
  put(out, static_cast<uint16_t>(event.type));
  put(out, uint16_t{0});  // flags
  record.AppendToString(&out);
  const std::string_view whole(out);
  const uint32_t crc =
      frame_crc(whole.substr(start, kFrameBytes), whole.substr(start + kFrameBytes));
  for (size_t i = 0; i < 4; ++i) out[start + 4 + i] = static_cast<char>(crc >> (8 * i) & 0xFF);
}

Event decode_payload(uint16_t type, std::string_view payload) {
  proto::Record record;
  if (!record.ParseFromArray(payload.data(), static_cast<int>(payload.size())))
    throw common::StoreError("journal record: the payload is no event message");
  Event event;
  event.type = static_cast<EventType>(type);
  event.tree_index = record.tree_index();
  event.node = id_from(record.node());
  event.parent = id_from(record.parent());
  event.path = record.path();
  event.text = record.text();
  event.time_us = record.time_us();
  event.payload = from_proto(record.payload());
  event.payload.id = event.node;
  event.payload.path = event.path;
  event.header = from_proto(record.header());
  event.header.index = event.tree_index;
  return event;
}

bool known_type(uint16_t type) {
  return type >= static_cast<uint16_t>(EventType::run_started) &&
         type <= static_cast<uint16_t>(EventType::checkpoint);
}

const char* to_string(EventType type) {
  switch (type) {
    case EventType::run_started:
      return "run_started";
    case EventType::tree_started:
      return "tree_started";
    case EventType::turn:
      return "turn";
    case EventType::observation:
      return "observation";
    case EventType::fork:
      return "fork";
    case EventType::snapshot:
      return "snapshot";
    case EventType::verdict:
      return "verdict";
    case EventType::failure:
      return "failure";
    case EventType::tree_sealed:
      return "tree_sealed";
    case EventType::tree_trained:
      return "tree_trained";
    case EventType::checkpoint:
      return "checkpoint";
  }
  return "unknown";
}

std::vector<std::filesystem::path> journal_files(const std::filesystem::path& directory) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error))
    if (it->path().extension() == ".log" && journal_file_number(it->path()) > 0)
      files.push_back(it->path());
  if (error)
    throw common::StoreError("list journal " + directory.string() + ": " + error.message());
  std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) {
    return journal_file_number(a) < journal_file_number(b);
  });
  return files;
}

std::filesystem::path journal_file(const std::filesystem::path& directory, uint32_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "%06u.log", number);
  return directory / name;
}

uint32_t journal_file_number(const std::filesystem::path& file) {
  const std::string stem = file.stem().string();
  uint32_t number = 0;
  auto [stop, error] = std::from_chars(stem.data(), stem.data() + stem.size(), number);
  return error == std::errc() && stop == stem.data() + stem.size() ? number : 0;
}

}  // namespace espalier::tree
