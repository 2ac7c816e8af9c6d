#include "tree/verify.h"

#include <map>
#include <set>
#include <string_view>

#include "common/error.h"
#include "tree/journal_codec.h"
#include "tree/journal_scan.h"
#include "tree/run_trees.h"
#include "tree/store.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;

/// Ids of the trees whose episodes go on.
class OpenTrees {
 public:
  /// What is wrong with the event; empty: nothing. Counts the ids it computed.
  std::string check(const Event& event, uint64_t& nodes) {
    switch (event.type) {
      case EventType::tree_started:
        return start(event);
      case EventType::turn:
        return turn(event, nodes);
      case EventType::tree_sealed:
        trees_.erase(event.tree_index);
        return "";
      case EventType::command:
      case EventType::observation:
      case EventType::fork:
      case EventType::snapshot:
      case EventType::verify:
      case EventType::verdict:
      case EventType::outcome:
        return known(event);
      default:
        return "";
    }
  }

 private:
  std::string start(const Event& event) {
    if (prompt_id(event.header) != event.header.id)
      return "the prompt's id is not that of its content";
    trees_[event.tree_index] = {event.header.id};
    return "";
  }

  std::string turn(const Event& event, uint64_t& nodes) {
    const auto tree = trees_.find(event.tree_index);
    if (tree == trees_.end()) return "";  // begun in a part of the journal that is gone
    if (event.parent.is_zero()) {
      tree->second.insert(event.node);
      return "";
    }
    if (!tree->second.contains(event.parent)) return "the parent is no node of the tree";
    ++nodes;
    if (node_id(event.parent, event.payload) != event.node)
      return "the id is not that of parent and content";
    tree->second.insert(event.node);
    return "";
  }

  std::string known(const Event& event) const {
    const auto tree = trees_.find(event.tree_index);
    const bool lost =
        tree != trees_.end() && !event.node.is_zero() && !tree->second.contains(event.node);
    return lost ? "it is about no node of the tree" : "";
  }

  std::map<uint64_t, std::set<NodeId>> trees_;
};

struct Place {
  fs::path file;
  uint64_t record = 0;  // in the file, from 1
  uint64_t offset = 0;
};

std::string at(const Place& place, const std::string& what) {
  return place.file.string() + ", record " + std::to_string(place.record) + " at byte " +
         std::to_string(place.offset) + what;
}

std::string named(const Event& event) {
  std::string name =
      " (" + std::string(to_string(event.type)) + ", tree " + std::to_string(event.tree_index);
  if (!event.path.empty()) name += ", " + event.path;
  return name + "): ";
}

/// False: there is a problem.
bool check_record(const FrameScanner& scanner, const Place& place, OpenTrees& open,
                  Verification& out) {
  ++out.records;
  if (!known_record(scanner.type(), scanner.flags())) {
    ++out.skipped;
    return true;
  }
  try {
    const Event event = decode_payload(scanner.type(), scanner.payload());
    const std::string wrong = open.check(event, out.nodes);
    if (!wrong.empty()) out.problem = at(place, named(event) + wrong);
  } catch (const common::StoreError& error) {
    out.problem = at(place, std::string(": ") + error.what());
  }
  return out.problem.empty();
}

/// False: there is a problem.
bool verify_file(const fs::path& file, bool last, OpenTrees& open, Verification& out) {
  ++out.journal_files;
  FrameScanner scanner(file);
  for (Place place{file, 1, 0};; ++place.record) {
    place.offset = scanner.offset();
    switch (scanner.next()) {
      case FrameScanner::Status::record:
        if (!check_record(scanner, place, open, out)) return false;
        break;
      case FrameScanner::Status::end:
        out.journal_bytes += scanner.offset();
        return true;
      case FrameScanner::Status::torn:
        out.torn = last;
        out.problem = at(place, std::string(": incomplete") +
                                    (last ? "; it is being written, or was cut off by a crash: the "
                                            "next writer cuts it"
                                          : ""));
        return false;
      case FrameScanner::Status::damaged:
        out.problem = at(place, ": " + scanner.reason());
        return false;
    }
  }
}

bool verify_tree(const fs::path& shard, const Tree& tree, const NodeId* digest, Verification& out) {
  const std::string where = shard.string() + ", tree " + std::to_string(tree.index);
  ++out.trees;
  if (prompt_id(tree) != tree.id) {
    out.problem = where + ": the prompt's id is not that of its content";
    return false;
  }
  for (const Node& node : tree.nodes) {
    ++out.nodes;
    const NodeId& parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    if (node_id(parent, node) == node.id) continue;
    out.problem = where + ", node " + node.path + ": the id is not that of parent and content";
    return false;
  }
  if (digest && tree_digest(tree) != *digest)
    out.problem = where + ": the digest is not that of observations, ends and estimates";
  return out.problem.empty();
}

bool verify_shard(const fs::path& shard, Verification& out) {
  ++out.shards;
  try {
    const ShardIds ids = read_ids(shard);
    const std::vector<Tree> trees = read_trees(shard);
    for (size_t i = 0; i < trees.size(); ++i)
      if (!verify_tree(shard, trees[i], ids.digests.empty() ? nullptr : &ids.digests[i], out))
        return false;
  } catch (const common::StoreError& error) {
    out.problem = error.what();
  }
  return out.problem.empty();
}

}  // namespace

void verify_journal(const fs::path& directory, Verification& verification) {
  OpenTrees open;
  const auto files = journal_files(directory);
  for (const fs::path& file : files)
    if (!verify_file(file, file == files.back(), open, verification)) return;
}

Verification verify_run(const fs::path& run) {
  check_run(run);
  Verification verification;
  std::error_code error;
  if (fs::is_directory(run / "journal", error)) verify_journal(run / "journal", verification);
  if (!verification.problem.empty()) return verification;
  for (const fs::path& shard : list_shards(run))
    if (!verify_shard(shard, verification)) break;
  return verification;
}

}  // namespace espalier::tree
