#include "tree/store.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "common/error.h"
#include "common/files.h"
#include "tree/file_limit.h"
#include "tree/journal.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using common::TempDir;
using testing::random_tree;

std::vector<Tree> some_trees(uint64_t from, uint64_t to) {
  std::vector<Tree> trees;
  for (uint64_t number = from; number < to; ++number) {
    trees.push_back(random_tree(number));
    double salt = 0.125;
    for (Node& node : trees.back().nodes) {  // fields the random trees leave at zero
      node.snapshot = node.fork_rule.empty() ? "" : "cafe";
      node.value = salt;
      node.advantage = -salt;
      node.weight = salt / 2;
      node.s_plus = salt / 3;
      node.s_minus = -salt / 3;
      salt += 1;
    }
  }
  return trees;
}

TEST(Store, ReadsBackEveryField) {
  TempDir dir;
  const auto trees = some_trees(0, 40);
  const fs::path file = shard_path(dir.path(), 3);
  write_trees(file, trees);
  const auto read = read_trees(file);
  ASSERT_EQ(read.size(), trees.size());
  for (size_t i = 0; i < trees.size(); ++i) EXPECT_TRUE(testing::same_tree(read[i], trees[i])) << i;
}

TEST(Store, AnInjectedActionStaysOneInShardJournalAndDigest) {
  const TempDir dir;
  Tree tree = random_tree(1);
  const NodeId plain = tree_digest(tree);
  tree.nodes[0].injected = true;
  EXPECT_NE(tree_digest(tree).hex(), plain.hex());
  const auto file = shard_path(dir.path(), 0);
  write_trees(file, {tree});
  EXPECT_TRUE(read_trees(file).at(0).nodes[0].injected);
  {
    JournalWriter journal(dir.path() / "journal", Durability::none);
    Event event;
    event.type = EventType::turn;
    event.node = tree.nodes[0].id;
    event.payload = tree.nodes[0];
    journal.append(event);
  }
  JournalReader reader(dir.path() / "journal");
  const auto read = reader.next();
  ASSERT_TRUE(read);
  EXPECT_TRUE(read->payload.injected);
}

TEST(Store, EmptyShardsAndEmptyFields) {
  TempDir dir;
  const fs::path file = dir.path() / "empty.h5";
  write_trees(file, {});
  EXPECT_TRUE(read_trees(file).empty());
  Tree bare;
  write_trees(file, {bare});
  EXPECT_TRUE(testing::same_tree(read_trees(file).at(0), bare));
  bare.nodes.resize(1);
  write_trees(file, {bare});
  EXPECT_TRUE(testing::same_tree(read_trees(file).at(0), bare));
}

TEST(Store, BytesDependOnTheTreesAlone) {
  TempDir dir;
  const auto trees = some_trees(0, 20);
  write_trees(dir.path() / "a.h5", trees);
  write_trees(dir.path() / "other" / "name.h5", some_trees(20, 30));
  write_trees(dir.path() / "other" / "b.h5", trees);
  EXPECT_EQ(common::read_file(dir.path() / "a.h5"), common::read_file(dir.path() / "other/b.h5"));
}

TEST(Store, WritesWholeOrNotAtAll) {
  TempDir dir;
  const fs::path file = dir.path() / "file";
  common::write_file_atomically(file, "x");
  EXPECT_THROW(write_trees(file / "step.h5", {}), common::StoreError);
  write_trees(dir.path() / "step.h5", some_trees(0, 2));
  write_trees(dir.path() / "step.h5", some_trees(0, 3));
  EXPECT_EQ(read_trees(dir.path() / "step.h5").size(), 3u);
  for (const auto& entry : fs::directory_iterator(dir.path()))
    EXPECT_TRUE(entry.path().filename() == "file" || entry.path().filename() == "step.h5")
        << entry.path();
}

/// 0: a shard that does not fit was refused and left nothing, and the next one is written well.
int store_on_a_full_disk(const fs::path& directory) {
  testing::limit_file_size(4 << 10);
  const fs::path file = directory / "step.h5";
  try {
    write_trees(file, some_trees(0, 40));
    return 1;
  } catch (const common::StoreError& error) {
    if (std::string(error.what()).find("step.h5") == std::string::npos) return 2;
  }
  if (!fs::is_empty(directory)) return 3;
  testing::limit_file_size(RLIM_INFINITY);
  write_trees(file, some_trees(0, 40));
  return read_trees(file).size() == 40 ? 0 : 4;
}

/// In a child: the limit on file sizes stands for the disk's. It exits as a program does, with the
/// library's own cleaning up.
TEST(Store, AFullDiskIsAStoreErrorAndTheNextShardIsWritten) {
  TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) std::exit(store_on_a_full_disk(dir.path()));
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Store, ErrorsNameFileAndReason) {
  TempDir dir;
  const fs::path file = dir.path() / "none.h5";
  ::testing::internal::CaptureStderr();
  for (const char* content : {"", "not HDF5 at all"}) {
    if (*content) common::write_file_atomically(file, content);
    try {
      read_trees(file);
      ADD_FAILURE();
    } catch (const common::StoreError& error) {
      EXPECT_NE(std::string(error.what()).find("none.h5"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "") << "HDF5 prints nothing of its own";
}

/// Reads `good` with bytes flipped or the tail missing, 300 times; how often that was refused.
int refused_of_damaged(const std::string& good, const fs::path& directory) {
  common::Rng rng({17});
  const int64_t last = static_cast<int64_t>(good.size()) - 1;
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string damaged = good;
    if (round % 10 == 0) {
      damaged.resize(static_cast<size_t>(rng.range(0, last)));
    } else {
      for (int64_t flips = rng.range(1, 4); flips > 0; --flips)
        damaged[static_cast<size_t>(rng.range(0, last))] ^= static_cast<char>(rng.range(1, 255));
    }
    const fs::path bad = directory / "bad.h5";
    std::ofstream(bad, std::ios::binary | std::ios::trunc) << damaged;
    try {
      read_trees(bad);
    } catch (const common::StoreError&) {
      ++refused;
    }
  }
  return refused;
}

/// A damaged shard gives a StoreError or trees, never a crash, neither at once nor when the program
/// that read it exits.
TEST(Store, SurvivesDamage) {
  TempDir dir;
  write_trees(dir.path() / "good.h5", some_trees(0, 3));
  const std::string good = common::read_file(dir.path() / "good.h5");
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      std::exit(refused_of_damaged(good, dir.path()) > 200 ? 0 : 1);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "not a StoreError: %s\n", error.what());
      std::exit(2);
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Store, ListsShardsInOrderOfStep) {
  TempDir dir;
  EXPECT_TRUE(list_shards(dir.path()).empty());
  for (uint64_t step : {10, 2, 1234567}) write_trees(shard_path(dir.path(), step), {});
  common::write_file_atomically(dir.path() / "trees" / "notes.txt", "x");
  common::write_file_atomically(dir.path() / "trees" / "step_x.h5", "x");
  const auto shards = list_shards(dir.path());
  ASSERT_EQ(shards.size(), 3u);
  EXPECT_EQ(shards[0].filename(), "step_000002.h5");
  EXPECT_EQ(shards[1].filename(), "step_000010.h5");
  EXPECT_EQ(shards[2].filename(), "step_1234567.h5");
}

/// The example of docs/format.md, as written there, on a real shard.
TEST(Store, TheDocumentedH5pyExampleRuns) {
  if (std::system("/usr/bin/python3 -c 'import h5py' >/dev/null 2>&1") != 0)
    GTEST_SKIP() << "python3-h5py is not importable by /usr/bin/python3";
  const std::string docs = common::read_file(fs::path(ESPALIER_SOURCE_DIR) / "docs/format.md");
  const std::string open = "```python\n";
  const size_t start = docs.find(open);
  ASSERT_NE(start, std::string::npos);
  const size_t from = start + open.size();
  TempDir dir;
  common::write_file_atomically(dir.path() / "example.py",
                                docs.substr(from, docs.find("```", from) - from));
  const auto trees = some_trees(0, 4);
  write_trees(dir.path() / "step.h5", trees);
  const std::string output = dir.path() / "output";
  const std::string command = "/usr/bin/python3 " + (dir.path() / "example.py").string() + " " +
                              (dir.path() / "step.h5").string() + " > " + output + " 2>&1";
  const int status = std::system(command.c_str());
  const std::string printed = common::read_file(output);
  ASSERT_EQ(status, 0) << printed;
  for (const Tree& tree : trees) {
    EXPECT_NE(printed.find(tree.task), std::string::npos) << printed;
    for (const Node& node : tree.nodes)
      EXPECT_NE(printed.find(node.path + " " + node.command), std::string::npos) << printed;
  }
}

}  // namespace
}  // namespace espalier::tree
