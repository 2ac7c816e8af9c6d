// What was acknowledged survives whatever fails: every write, sync and rename in turn, SIGKILL at
// random points, every byte changed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/error.h"
#include "common/files.h"
#include "common/rng.h"
#include "tree/faulty_files.h"
#include "tree/journal_events.h"
#include "tree/store.h"
#include "tree/verify.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using common::TempDir;
using testing::events_of;
using testing::Fault;
using testing::FaultyFiles;
using testing::random_tree;
using testing::read_texts;
using testing::text_event;

constexpr int kEvents = 40;

/// How many of kEvents appends were acknowledged: with sync by append(), else by flush().
int append_until_it_fails(const fs::path& directory, FaultyFiles& files, Durability durability) {
  int acknowledged = 0;
  try {
    JournalWriter writer(directory,
                         {.durability = durability, .rotate_bytes = 500, .files = &files});
    for (int i = 0; i < kEvents; ++i) {
      writer.append(text_event(std::to_string(i) + std::string(60, '.')));
      if (durability != Durability::sync) writer.flush();
      ++acknowledged;
    }
  } catch (const common::StoreError& error) {
    EXPECT_NE(std::string(error.what()).find("injected"), std::string::npos) << error.what();
  }
  return acknowledged;
}

/// Reopened, the journal has at least those, in order, and takes more.
void expect_kept(const fs::path& directory, int acknowledged, const std::string& what) {
  {
    JournalWriter writer(directory, Durability::none);
    writer.append(text_event("after"));
  }
  std::string damage;
  const auto texts = read_texts(directory, &damage);
  EXPECT_EQ(damage, "") << what;
  ASSERT_GT(texts.size(), static_cast<size_t>(acknowledged)) << what;
  EXPECT_EQ(texts.back(), "after") << what;
  for (size_t i = 0; i + 1 < texts.size(); ++i)
    ASSERT_TRUE(texts[i].starts_with(std::to_string(i) + ".")) << what << ": " << texts[i];
}

TEST(Faults, EveryOperationOfTheJournalFailsInTurnAndNothingAcknowledgedIsLost) {
  for (Durability durability : {Durability::batch, Durability::sync}) {
    for (Fault fault : {Fault::write, Fault::torn_write, Fault::sync, Fault::sync_directory}) {
      int failures = 0;
      for (int number = 0;; ++number) {
        TempDir dir;
        FaultyFiles files(fault, number);
        const int acknowledged = append_until_it_fails(dir.path(), files, durability);
        if (!files.failed()) {
          EXPECT_EQ(acknowledged, kEvents);
          break;
        }
        ++failures;
        files.lose_power();
        expect_kept(
            dir.path(), acknowledged,
            "fault " + std::to_string(static_cast<int>(fault)) + " at " + std::to_string(number));
      }
      EXPECT_GT(failures, fault == Fault::sync_directory ? 3 : kEvents) << static_cast<int>(fault);
    }
  }
}

TEST(Faults, EveryOperationOfTheStoreFailsInTurnAndTheShardIsTheOldOrTheNew) {
  std::vector<Tree> old{random_tree(1)}, fresh{random_tree(2), random_tree(3)};
  for (Fault fault :
       {Fault::write, Fault::torn_write, Fault::sync, Fault::rename, Fault::sync_directory}) {
    int failures = 0;
    for (int number = 0;; ++number) {
      TempDir dir;
      const fs::path shard = shard_path(dir.path(), 0);
      write_trees(shard, old);
      FaultyFiles files(fault, number);
      bool acknowledged = true;
      try {
        write_trees(shard, fresh, &files);
      } catch (const common::StoreError&) {
        acknowledged = false;
      }
      if (!files.failed()) break;
      ++failures;
      EXPECT_FALSE(acknowledged);
      files.lose_power();
      const auto read = read_trees(shard);
      const auto& expected = read.size() == 1 ? old : fresh;
      ASSERT_EQ(read.size(), expected.size());
      EXPECT_TRUE(testing::same_tree(read[0], expected[0]));
    }
    EXPECT_EQ(failures, 1) << static_cast<int>(fault);
  }
}

/// Appends numbers, reporting each that is acknowledged (sync: by append, batch: by a flush every
/// seventh), until killed.
[[noreturn]] void append_until_killed(const fs::path& directory, Durability durability, int start,
                                      int pipe) {
  try {
    JournalWriter writer(directory, {.durability = durability, .rotate_bytes = 4096});
    for (int i = start;; ++i) {
      writer.append(text_event(std::to_string(i)));
      if (durability != Durability::sync) {
        if (i % 7 != 0) continue;
        writer.flush();
      }
      if (::write(pipe, &i, sizeof i) != sizeof i) break;
    }
  } catch (const std::exception&) {
  }
  ::_exit(1);
}

/// Lets a child append for a moment, kills it, and gives the last number it had acknowledged.
int killed_after(const fs::path& directory, Durability durability, int start, int microseconds) {
  int ends[2];
  EXPECT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends[0]);
    append_until_killed(directory, durability, start, ends[1]);
  }
  ::close(ends[1]);
  ::usleep(static_cast<useconds_t>(microseconds));
  ::kill(child, SIGKILL);
  int acknowledged = start - 1, value = 0;
  while (::read(ends[0], &value, sizeof value) == sizeof value) acknowledged = value;
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status));
  return acknowledged;
}

/// Two hundred kills, half of them with each durability, at random points; a reader follows all the
/// while.
TEST(Faults, NothingAcknowledgedIsLostToSigkill) {
  common::Rng rng({5});
  for (Durability durability : {Durability::sync, Durability::batch}) {
    TempDir dir;
    int next = 0;
    for (int round = 0; round < 100; ++round) {
      const int acknowledged =
          killed_after(dir.path(), durability, next, static_cast<int>(rng.range(500, 30000)));
      if (!fs::exists(dir.path() / "000001.log")) continue;
      JournalReader follower(dir.path());
      int seen = 0;
      while (auto event = follower.next()) ASSERT_EQ(event->text, std::to_string(seen++));
      ASSERT_FALSE(follower.stopped()) << follower.damage();
      ASSERT_GT(seen, acknowledged);
      next = seen;
    }
    EXPECT_GT(next, 20);
  }
}

TEST(Faults, VerifyDetectsEveryChangedByteAndNamesTheRecord) {
  TempDir whole_dir;
  {
    JournalWriter writer(whole_dir.path(), Durability::none);
    for (const Event& event : events_of(random_tree(4, {.max_roots = 1, .max_depth = 2})))
      writer.append(event);
  }
  const std::string whole = common::read_file(whole_dir.path() / "000001.log");
  Verification good;
  verify_journal(whole_dir.path(), good);
  EXPECT_EQ(good.problem, "");
  EXPECT_EQ(good.journal_bytes, whole.size());
  TempDir dir;
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << at % 8));
    testing::overwrite(dir.path() / "000001.log", damaged);
    Verification seen;
    verify_journal(dir.path(), seen);
    EXPECT_NE(seen.problem.find("000001.log, record "), std::string::npos) << at;
    EXPECT_LT(seen.records, good.records) << at;
  }
}

}  // namespace
}  // namespace espalier::tree
