// The journal: an append-only, checksummed record of everything that happens to a run's trees.
//
// On disk (docs/format.md): files journal/NNNNNN.log of length-prefixed, CRC-32C-checked records.
// After kill -9 at any byte, opening keeps every complete record and cuts the torn tail. Unknown
// event types are kept and skipped. Intent and outcome are separate events: what was begun and
// never answered shows as such.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tree/file_system.h"
#include "tree/trace_tree.h"

namespace espalier::tree {

/// What happens to trees. Intents (turn, command, verify, retry) stand before what they intend is
/// begun, the rest when it is known. Numbers are part of the format.
enum class EventType : uint16_t {
  run_started = 1,    // text: seed, version, step
  tree_started = 2,   // task drawn: header
  turn = 3,           // an action was sampled: all of its tokens
  observation = 4,    // what came of it
  fork = 5,           // text: rule, the numbers it decided on, kind, branch numbers, or why not
  snapshot = 6,       // payload.snapshot
  verdict = 7,        // what the verifier said: payload.reward or payload.failure
  failure = 8,        // of the infrastructure; text: operation, reason. With a node id and outcome
                      // none: that node is given up and its action done again
  tree_sealed = 9,    // every episode is over
  tree_trained = 10,  // text: in which step, version of the weights it made
  checkpoint = 11,    // text: step
  episode_started = 12,  // path: of the root's or the branch's first turn
  command = 13,          // the action's command is given to the environment
  outcome = 14,          // how an episode ended: payload.outcome, reward, failure
  verify = 15,           // the verifier is started
  retry = 16,            // text: operation that is done again after a failure
  advantage = 17,        // estimates
  intervention = 18,     // from outside: a stop, an edit; text says what
};
const char* to_string(EventType type);

enum class Durability { none, batch, sync };

/// An estimator's numbers of one node.
struct NodeEstimate {
  NodeId node;
  double value = 0, advantage = 0, weight = 0, s_plus = 0, s_minus = 0;
};

/// One event. Fields that a type does not use stay empty.
struct Event {
  EventType type = EventType::run_started;
  uint64_t tree_index = 0;
  NodeId node;       // the node it is about (turn: the new node; fork: the parent)
  NodeId parent;     // turn: id of the node it continues; zero: found by the path
  std::string path;  // of the node in its tree
  Node payload;      // turn, observation, verdict, …: the fields concerned
  Tree header;       // tree_started: everything but the nodes
  std::string text;  // JSON detail: fork numbers, failure
  std::vector<NodeEstimate> estimates;  // advantage
  int64_t time_us = 0;                  // wall clock since the epoch; not part of any identity
};

/// A place between two records.
struct JournalPosition {
  uint32_t file = 0;  // 0: the journal's beginning
  uint64_t offset = 0;
  auto operator<=>(const JournalPosition&) const = default;
};

struct JournalOptions {
  Durability durability = Durability::batch;
  uint64_t rotate_bytes = uint64_t{64}
                          << 20;  // a file that has reached this is succeeded by a next
  FileSystem* files = nullptr;    // borrowed; null: the machine's
};

/// Thread contract: append() from any thread; records of one thread keep their order. One writer a
/// journal: a second process is refused. Errors: StoreError; once writing has failed, every later
/// call throws the same. Memory: at most a few times 8 MiB and the largest record, however long the
/// journal.
///
/// Durability: append() returns when the record is buffered (none, batch) or on disk (sync). A
/// thread writes what has gathered at once, and syncs it to disk never (none), every 100 ms or 16
/// MiB (batch; appending waits for the disk once 64 MiB are not synced), always (sync). The
/// destructor writes what is left; flush() first to learn of failures.
class JournalWriter {
 public:
  /// Opens for appending, cutting a torn tail first (cut() says what).
  JournalWriter(const std::filesystem::path& directory, const JournalOptions& options);
  JournalWriter(const std::filesystem::path& directory, Durability durability)
      : JournalWriter(directory, JournalOptions{.durability = durability}) {}
  ~JournalWriter();
  void append(const Event& event);
  /// Everything appended so far is on disk when this returns.
  void flush();
  /// flush(), and where the next record will stand when nobody else appends.
  JournalPosition position();
  uint64_t cut_bytes() const;
  /// What opening cut: file, byte, how much and why; empty: nothing.
  std::string cut() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads what survived, in order, and goes on when the journal has grown. Stops at the first torn
/// or damaged record and says where (damage()).
class JournalReader {
 public:
  /// Errors: StoreError when the directory cannot be read, or the journal ends before `from`.
  explicit JournalReader(const std::filesystem::path& directory, JournalPosition from = {});
  ~JournalReader();
  std::optional<Event> next();
  uint64_t skipped() const;    // records of types this version does not know
  std::string damage() const;  // empty: none
  /// The damage is no unfinished end, which may still be completed: next() gives nothing any more.
  bool stopped() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Rebuilds trees from events; complete ones are those whose tree_sealed event was seen. In order
/// of their index, canonical. A second tree_started of an index (a resumed run) starts that tree
/// anew; a node whose parent did not survive is dropped. Trees whose index is in `skip` are not
/// kept. `damage`: what made reading stop before the journal's end; empty: nothing did. Errors:
/// StoreError.
struct RecoveredTree {
  Tree tree;
  bool sealed = false;
};
struct RecoverOptions {
  std::set<uint64_t> skip;
  JournalPosition from;  // trees begun before it are not seen
};
std::vector<RecoveredTree> recover_trees(const std::filesystem::path& journal_directory,
                                         const RecoverOptions& options = {},
                                         std::string* damage = nullptr);

}  // namespace espalier::tree
