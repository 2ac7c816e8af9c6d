#include "tree/verify.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "common/error.h"
#include "common/files.h"
#include "tree/journal_codec.h"
#include "tree/journal_events.h"
#include "tree/store.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using common::TempDir;
using testing::events_of;
using testing::random_tree;

void write_journal(const fs::path& directory, const std::vector<Event>& events) {
  JournalWriter writer(directory, Durability::none);
  for (const Event& event : events) writer.append(event);
}

TEST(Verify, AWholeRun) {
  TempDir run;
  write_journal(run.path() / "journal", events_of(random_tree(1)));
  write_trees(shard_path(run.path(), 0), {random_tree(1), random_tree(2)});
  const Verification seen = verify_run(run.path());
  EXPECT_EQ(seen.problem, "");
  EXPECT_EQ(seen.shards, 1u);
  EXPECT_EQ(seen.trees, 2u);
  EXPECT_EQ(seen.nodes, 2 * random_tree(1).nodes.size() + random_tree(2).nodes.size());
  EXPECT_THROW(verify_run(run.path() / "none"), common::ConfigError);
}

/// Well-formed records whose content is not what their ids say.
TEST(Verify, NamesTheNodeThatWasChangedWithItsChecksum) {
  const auto events = events_of(random_tree(1));
  for (size_t i = 0; i < events.size(); ++i) {
    std::vector<Event> changed = events;
    if (events[i].type == EventType::turn) {
      changed[i].payload.log_probs[0] += 1;
    } else if (events[i].type == EventType::tree_started) {
      changed[i].header.prompt += "!";
    } else if (events[i].type == EventType::observation) {
      changed[i].node.bytes[3] ^= 1;
    } else {
      continue;
    }
    TempDir dir;
    write_journal(dir.path(), changed);
    Verification seen;
    verify_journal(dir.path(), seen);
    EXPECT_NE(seen.problem.find("record " + std::to_string(i + 1) + " "), std::string::npos)
        << i << ": " << seen.problem;
    EXPECT_NE(seen.problem.find(to_string(events[i].type)), std::string::npos) << seen.problem;
  }
}

TEST(Verify, AnIncompleteEndIsSaidToBeOne) {
  TempDir dir;
  write_journal(dir.path(), events_of(random_tree(1)));
  const fs::path file = dir.path() / "000001.log";
  fs::resize_file(file, fs::file_size(file) - 1);
  Verification seen;
  verify_journal(dir.path(), seen);
  EXPECT_TRUE(seen.torn);
  EXPECT_NE(seen.problem.find("incomplete"), std::string::npos) << seen.problem;
}

TEST(Verify, FindsWhatWasChangedInAShard) {
  TempDir run;
  write_trees(shard_path(run.path(), 0), {random_tree(1), random_tree(2)});
  const fs::path shard = shard_path(run.path(), 0);
  const std::string good = common::read_file(shard);
  size_t unnoticed = 0;
  for (size_t at = 0; at < good.size(); at += 97) {
    std::string damaged = good;
    damaged[at] ^= 0x20;
    testing::overwrite(shard, damaged);
    unnoticed += verify_run(run.path()).problem.empty();
  }
  // Bytes that hold nothing: gaps between the file's objects.
  EXPECT_LT(unnoticed, good.size() / 97 / 3);
}

/// The files a format promises to read for ever: written by this version, byte for byte, and read.
class Golden : public ::testing::Test {
 protected:
  static fs::path path(const std::string& name) {
    return fs::path(ESPALIER_SOURCE_DIR) / "tests/tree/golden" / name;
  }
  static std::vector<Event> events() {
    Tree tree = random_tree(7);
    std::vector<Event> events = events_of(tree);
    Event event;
    event.tree_index = tree.index;
    event.type = EventType::advantage;
    event.text = R"({"estimator":"tree_loo"})";
    for (const Node& node : tree.nodes)
      event.estimates.push_back({node.id, 0.5, 0.25, 1, 0.5, -0.25});
    events.push_back(event);
    for (uint16_t type = 1; known_record(type, 0); ++type) {
      Event one;
      one.type = static_cast<EventType>(type);
      one.tree_index = 1000 + type;
      one.path = "r0/t0";
      one.text = R"({"of":")" + std::string(to_string(one.type)) + "\"}";
      one.time_us = 1'700'000'000'000'000;
      events.push_back(one);
    }
    return events;
  }
};

TEST_F(Golden, TheJournalIsWrittenByteForByteAndRead) {
  TempDir dir;
  write_journal(dir.path(), events());
  const std::string written = common::read_file(dir.path() / "000001.log");
  if (std::getenv("ESPALIER_WRITE_GOLDEN"))
    common::write_file_atomically(path("journal.log"), written);
  EXPECT_TRUE(written == common::read_file(path("journal.log"))) << "the format has changed";
  TempDir copy;
  fs::copy_file(path("journal.log"), copy.path() / "000001.log");
  const auto recovered = recover_trees(copy.path());
  ASSERT_GE(recovered.size(), 1u);
  Tree expected = random_tree(7);
  for (Node& node : expected.nodes)
    std::tie(node.value, node.advantage, node.weight, node.s_plus, node.s_minus) =
        std::tuple(0.5, 0.25, 1, 0.5, -0.25);
  EXPECT_TRUE(testing::same_tree(recovered[0].tree, expected));
}

TEST_F(Golden, TheShardIsRead) {
  const std::vector<Tree> trees{random_tree(7), random_tree(8)};
  if (std::getenv("ESPALIER_WRITE_GOLDEN")) write_trees(path("shard.h5"), trees);
  const auto read = read_trees(path("shard.h5"));
  ASSERT_EQ(read.size(), trees.size());
  for (size_t i = 0; i < trees.size(); ++i) EXPECT_TRUE(testing::same_tree(read[i], trees[i])) << i;
}

}  // namespace
}  // namespace espalier::tree
