#include "tree/journal_codec.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "common/crc32c.h"
#include "common/error.h"
#include "events.pb.h"
#include "tree/journal_encode.h"

namespace espalier::tree {
namespace {

constexpr std::string_view kMagic = "ESPJRNL\n";
constexpr uint32_t kVersion = 1;

template <class T>
void put_at(char* out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out[i] = static_cast<char>(value >> (8 * i) & 0xFF);
}

template <class T>
void put(std::string& out, T value) {
  out.resize(out.size() + sizeof(T));
  put_at(out.data() + out.size() - sizeof(T), value);
}

template <class T>
T get(std::string_view bytes, size_t at) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= uint64_t{static_cast<uint8_t>(bytes[at + i])} << (8 * i);
  return static_cast<T>(value);
}

constexpr size_t kIdBytes = sizeof(NodeId::bytes);

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
  node.injected = in.injected();
  node.fork_origin = enum_from(in.fork_origin(), ForkOrigin::value, "fork origin");
  node.fork_rule = in.fork_rule();
  node.snapshot = in.snapshot();
  node.outcome = enum_from(in.outcome(), Outcome::cancelled, "outcome");
  if (in.has_reward()) node.reward = in.reward();
  node.failure = in.failure();
  return node;
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

std::vector<NodeEstimate> from_proto(const proto::Estimates& in) {
  const size_t count = in.nodes().size() / kIdBytes;
  for (int size : {in.value_size(), in.advantage_size(), in.weight_size(), in.s_plus_size(),
                   in.s_minus_size()})
    if (static_cast<size_t>(size) != count || in.nodes().size() % kIdBytes != 0)
      throw common::StoreError("journal record: estimates of unequal lengths");
  std::vector<NodeEstimate> estimates(count);
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(estimates[i].node.bytes.data(), in.nodes().data() + i * kIdBytes, kIdBytes);
    const int row = static_cast<int>(i);
    estimates[i].value = in.value(row);
    estimates[i].advantage = in.advantage(row);
    estimates[i].weight = in.weight(row);
    estimates[i].s_plus = in.s_plus(row);
    estimates[i].s_minus = in.s_minus(row);
  }
  return estimates;
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
  return {get<uint16_t>(bytes, 8), get<uint16_t>(bytes, 10), get<uint32_t>(bytes, 0),
          get<uint32_t>(bytes, 4)};
}

bool frame_matches(std::string_view bytes, std::string_view payload) {
  return frame_crc(bytes, payload) == get<uint32_t>(bytes, 4);
}

void encode_record(const Event& event, std::string& out) {
  const size_t start = out.size();
  out.resize(start + kFrameBytes);
  encode_payload(event, out);
  const size_t length = out.size() - start - kFrameBytes;
  if (length > kMaxPayloadBytes) {
    out.resize(start);
    throw common::StoreError("append to journal: " + std::string(to_string(event.type)) +
                             " event of " + std::to_string(length) +
                             " bytes; allowed: " + std::to_string(kMaxPayloadBytes));
  }
  char* frame = out.data() + start;
  put_at(frame, static_cast<uint32_t>(length));
  put_at(frame + 8, static_cast<uint16_t>(event.type));
  put_at(frame + 10, uint16_t{0});  // flags
  put_at(frame + 4, frame_crc({frame, kFrameBytes}, {frame + kFrameBytes, length}));
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
  if (record.has_payload()) event.payload = from_proto(record.payload());
  event.payload.id = event.node;
  event.payload.path = event.path;
  if (record.has_header()) event.header = from_proto(record.header());
  event.header.index = event.tree_index;
  if (record.has_estimates()) event.estimates = from_proto(record.estimates());
  return event;
}

bool known_record(uint16_t type, uint16_t flags) {
  return flags == 0 && type >= static_cast<uint16_t>(EventType::run_started) &&
         type <= static_cast<uint16_t>(EventType::intervention);
}

const char* to_string(EventType type) {
  static constexpr const char* kNames[] = {
      "run_started", "tree_started", "turn",        "observation",  "fork",       "snapshot",
      "verdict",     "failure",      "tree_sealed", "tree_trained", "checkpoint", "episode_started",
      "command",     "outcome",      "verify",      "retry",        "advantage",  "intervention"};
  const auto number = static_cast<uint16_t>(type);
  return known_record(number, 0) ? kNames[number - 1] : "unknown";
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
