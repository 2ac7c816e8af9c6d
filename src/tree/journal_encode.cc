#include "tree/journal_encode.h"

#include <google/protobuf/io/coded_stream.h>

#include <bit>
#include <cstring>

#include "events.pb.h"

namespace espalier::tree {
namespace {

using google::protobuf::io::CodedOutputStream;

constexpr size_t kVarintBytes = 10;
constexpr size_t kFieldBytes = 2 + kVarintBytes;  // number and value or length, at most

/// Writes fields in the wire format into memory that is large enough. Defaults are left out, as
/// proto3 does.
class Wire {
 public:
  explicit Wire(uint8_t* at) : at_(at) {}
  uint8_t* end() const { return at_; }

  void integer(int field, uint64_t value) {
    if (value == 0) return;
    tag(field, 0);
    at_ = CodedOutputStream::WriteVarint64ToArray(value, at_);
  }
  void integer(int field, int32_t value) {
    integer(field, static_cast<uint64_t>(static_cast<int64_t>(value)));
  }
  void fixed(int field, uint64_t value) {
    if (value == 0) return;
    tag(field, 1);
    at_ = CodedOutputStream::WriteLittleEndian64ToArray(value, at_);
  }
  /// Also when it is zero: a field with presence.
  void real(int field, double value) {
    tag(field, 1);
    at_ = CodedOutputStream::WriteLittleEndian64ToArray(std::bit_cast<uint64_t>(value), at_);
  }
  void real(int field, float value) {
    const auto bits = std::bit_cast<uint32_t>(value);
    if (bits == 0) return;
    tag(field, 5);
    at_ = CodedOutputStream::WriteLittleEndian32ToArray(bits, at_);
  }
  void bytes(int field, const void* data, size_t size) {
    if (size == 0) return;
    length(field, size);
    std::memcpy(at_, data, size);
    at_ += size;
  }
  void bytes(int field, const std::string& text) { bytes(field, text.data(), text.size()); }
  void id(int field, const NodeId& id) {
    if (!id.is_zero()) bytes(field, id.bytes.data(), id.bytes.size());
  }
  void packed(int field, const std::vector<Token>& values) {
    if (values.empty()) return;
    size_t size = 0;
    for (Token value : values) size += CodedOutputStream::VarintSize32SignExtended(value);
    length(field, size);
    for (Token value : values)
      at_ = CodedOutputStream::WriteVarint32SignExtendedToArray(value, at_);
  }
  void packed(int field, const std::vector<float>& values) {
    if (values.empty()) return;
    length(field, values.size() * sizeof(float));
    at_ = CodedOutputStream::WriteRawToArray(values.data(),
                                             static_cast<int>(values.size() * sizeof(float)), at_);
  }
  template <class Rows>
  void packed(int field, const Rows& rows, double NodeEstimate::*member) {
    if (rows.empty()) return;
    length(field, rows.size() * sizeof(double));
    for (const NodeEstimate& row : rows)
      at_ =
          CodedOutputStream::WriteLittleEndian64ToArray(std::bit_cast<uint64_t>(row.*member), at_);
  }
  void length(int field, size_t size) {
    tag(field, 2);
    at_ = CodedOutputStream::WriteVarint64ToArray(size, at_);
  }

 private:
  void tag(int field, int type) {
    at_ = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(field << 3 | type), at_);
  }

  uint8_t* at_;
};
static_assert(std::endian::native == std::endian::little,
              "arrays of floats are written as they are");

size_t bound(const Node& node) {
  return 21 * kFieldBytes + (node.prompt_delta.size() + node.action.size()) * kVarintBytes +
         (node.log_probs.size() + node.entropies.size()) * sizeof(float) + node.loss_mask.size() +
         node.command.size() + node.observation.size() + node.fork_rule.size() +
         node.snapshot.size() + node.failure.size();
}

uint8_t* write(const Node& node, uint8_t* at) {
  using F = proto::Node;
  Wire wire(at);
  wire.integer(F::kBranchFieldNumber, node.branch);
  wire.integer(F::kTurnFieldNumber, node.turn);
  wire.packed(F::kPromptDeltaFieldNumber, node.prompt_delta);
  wire.packed(F::kActionFieldNumber, node.action);
  wire.packed(F::kLogProbsFieldNumber, node.log_probs);
  wire.packed(F::kEntropiesFieldNumber, node.entropies);
  wire.bytes(F::kLossMaskFieldNumber, node.loss_mask.data(), node.loss_mask.size());
  wire.real(F::kFirstEntropyFieldNumber, node.first_entropy);
  wire.integer(F::kPolicyVersionFieldNumber, node.policy_version);
  wire.fixed(F::kSamplingKeyFieldNumber, node.sampling_key);
  wire.bytes(F::kCommandFieldNumber, node.command);
  wire.bytes(F::kObservationFieldNumber, node.observation);
  wire.integer(F::kExitCodeFieldNumber, node.exit_code);
  wire.integer(F::kTimedOutFieldNumber, static_cast<int32_t>(node.timed_out));
  wire.integer(F::kForkOriginFieldNumber, static_cast<int32_t>(node.fork_origin));
  wire.bytes(F::kForkRuleFieldNumber, node.fork_rule);
  wire.bytes(F::kSnapshotFieldNumber, node.snapshot);
  wire.integer(F::kOutcomeFieldNumber, static_cast<int32_t>(node.outcome));
  if (node.reward) wire.real(F::kRewardFieldNumber, *node.reward);
  wire.bytes(F::kFailureFieldNumber, node.failure);
  wire.integer(F::kInjectedFieldNumber, static_cast<int32_t>(node.injected));
  return wire.end();
}

size_t bound(const Tree& tree) {
  return 7 * kFieldBytes + sizeof(NodeId) + tree.task.size() + tree.family.size() +
         tree.prompt.size() + tree.prompt_tokens.size() * kVarintBytes;
}

uint8_t* write(const Tree& tree, uint8_t* at) {
  using F = proto::Header;
  Wire wire(at);
  wire.bytes(F::kTaskFieldNumber, tree.task);
  wire.bytes(F::kFamilyFieldNumber, tree.family);
  wire.integer(F::kStepFieldNumber, tree.step);
  wire.integer(F::kRunSeedFieldNumber, tree.run_seed);
  wire.id(F::kIdFieldNumber, tree.id);
  wire.bytes(F::kPromptFieldNumber, tree.prompt);
  wire.packed(F::kPromptTokensFieldNumber, tree.prompt_tokens);
  return wire.end();
}

using Estimates = std::vector<NodeEstimate>;

size_t bound(const Estimates& estimates) {
  return 6 * kFieldBytes + estimates.size() * sizeof(NodeEstimate);
}

uint8_t* write(const Estimates& estimates, uint8_t* at) {
  using F = proto::Estimates;
  std::string nodes;
  for (const NodeEstimate& estimate : estimates)
    nodes.append(reinterpret_cast<const char*>(estimate.node.bytes.data()), sizeof(NodeId));
  Wire wire(at);
  wire.bytes(F::kNodesFieldNumber, nodes);
  wire.packed(F::kValueFieldNumber, estimates, &NodeEstimate::value);
  wire.packed(F::kAdvantageFieldNumber, estimates, &NodeEstimate::advantage);
  wire.packed(F::kWeightFieldNumber, estimates, &NodeEstimate::weight);
  wire.packed(F::kSPlusFieldNumber, estimates, &NodeEstimate::s_plus);
  wire.packed(F::kSMinusFieldNumber, estimates, &NodeEstimate::s_minus);
  return wire.end();
}

/// Calls f with the field number and the message that the event's type has; not at all for none.
template <class F>
void with_message(const Event& event, F&& f) {
  switch (event.type) {
    case EventType::turn:
    case EventType::observation:
    case EventType::fork:
    case EventType::snapshot:
    case EventType::verdict:
    case EventType::failure:
    case EventType::outcome:
      return f(int{proto::Record::kPayloadFieldNumber}, event.payload);
    case EventType::tree_started:
      return f(int{proto::Record::kHeaderFieldNumber}, event.header);
    case EventType::advantage:
      return f(int{proto::Record::kEstimatesFieldNumber}, event.estimates);
    default:
      return;
  }
}

}  // namespace

void encode_payload(const Event& event, std::string& out) {
  using F = proto::Record;
  size_t message_bound = 0;
  with_message(event, [&](int, const auto& message) { message_bound = bound(message); });
  const size_t start = out.size();
  const size_t most = 9 * kFieldBytes + 2 * sizeof(NodeId) + event.path.size() + event.text.size();
  // The message is written behind where it will stand, to know its length first.
  out.resize(start + most + 2 * message_bound);
  Wire wire(reinterpret_cast<uint8_t*>(out.data()) + start);
  wire.integer(F::kTreeIndexFieldNumber, event.tree_index);
  wire.id(F::kNodeFieldNumber, event.node);
  wire.id(F::kParentFieldNumber, event.parent);
  wire.bytes(F::kPathFieldNumber, event.path);
  with_message(event, [&](int field, const auto& message) {
    uint8_t* scratch = reinterpret_cast<uint8_t*>(out.data()) + start + most + message_bound;
    const auto size = static_cast<size_t>(write(message, scratch) - scratch);
    if (size > 0) {
      wire.bytes(field, scratch, size);
    } else {
      wire.length(field, 0);
    }
  });
  wire.bytes(F::kTextFieldNumber, event.text);
  wire.integer(F::kTimeUsFieldNumber, static_cast<uint64_t>(event.time_us));
  out.resize(static_cast<size_t>(reinterpret_cast<char*>(wire.end()) - out.data()));
}

}  // namespace espalier::tree
