// The journal: an append-only, checksummed record of everything that happens to a run's trees.
//
// On disk (docs/format.md): files journal/NNNNNN.log of length-prefixed, CRC-32C-checked records.
// After kill -9 at any byte, opening keeps every complete record and cuts the torn tail. Unknown
// event types are kept and skipped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "tree/trace_tree.h"

namespace espalier::tree {

enum class EventType : uint16_t {
  run_started = 1,   // seed, config digest, version
  tree_started = 2,  // task drawn: index, step, prompt and its tokens
  turn = 3,          // an action was sampled: intent
  observation = 4,   // what came of it: outcome
  fork = 5,          // rule, K, the numbers it decided on
  snapshot = 6,
  verdict = 7,
  failure = 8,  // an infrastructure failure. payload.outcome none: the node is given up and its
                // action done again (text says how); else: the leaf's typed end, as in a verdict
  tree_sealed = 9,
  tree_trained = 10,  // used in which step
  checkpoint = 11,
};
const char* to_string(EventType type);

enum class Durability { none, batch, sync };

/// One event. Fields that a type does not use stay empty.
struct Event {
  EventType type = EventType::run_started;
  uint64_t tree_index = 0;
  NodeId node;          // the node it is about (turn: the new node; fork: the parent)
  NodeId parent;        // turn: id of the node it continues; zero: found by the path
  std::string path;     // of the node in its tree
  Node payload;         // turn, observation, verdict: the fields concerned
  Tree header;          // tree_started: everything but the nodes
  std::string text;     // JSON detail: fork numbers, failure, config digest
  int64_t time_us = 0;  // wall clock since the epoch; not part of any identity
};

/// Thread contract: append() from any thread; records of one thread keep their order. One writer a
/// journal: a second process is refused. Errors: StoreError; once writing has failed, every later
/// call throws the same.
///
/// Durability: append() returns when the record is buffered (none, batch) or on disk (sync). A
/// thread writes what has gathered at once, and syncs it to disk never (none), every 100 ms
/// (batch), always (sync). The destructor writes what is left; flush() first to learn of failures.
class JournalWriter {
 public:
  /// Opens for appending, cutting a torn tail first (cut_bytes() says how much).
  JournalWriter(const std::filesystem::path& directory, Durability durability);
  ~JournalWriter();
  void append(const Event& event);
  /// Everything appended so far is on disk when this returns.
  void flush();
  uint64_t cut_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Reads what survived, in order. Stops at the first torn or damaged record and says where
/// (damage()).
class JournalReader {
 public:
  explicit JournalReader(const std::filesystem::path& directory);
  ~JournalReader();
  std::optional<Event> next();
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
std::vector<RecoveredTree> recover_trees(const std::filesystem::path& journal_directory,
                                         const std::set<uint64_t>& skip = {},
                                         std::string* damage = nullptr);

}  // namespace espalier::tree
