#include "tree/journal.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <map>
#include <thread>

#include "common/crc32c.h"
#include "common/error.h"
#include "common/files.h"
#include "tree/file_limit.h"
#include "tree/journal_events.h"
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using common::TempDir;
using testing::events_of;
using testing::overwrite;
using testing::random_tree;
using testing::read_all;
using testing::read_texts;
using testing::text_event;
using testing::write_texts;

TEST(Journal, ReadsBackEveryFieldInOrder) {
  for (Durability durability : {Durability::none, Durability::batch, Durability::sync}) {
    TempDir dir;
    std::vector<Event> events = events_of(random_tree(3));
    {
      JournalWriter writer(dir.path(), durability);
      for (const Event& event : events) writer.append(event);
    }
    std::string damage;
    const auto read = read_all(dir.path(), &damage);
    EXPECT_EQ(damage, "");
    ASSERT_EQ(read.size(), events.size());
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(read[i].type, events[i].type);
      EXPECT_EQ(read[i].tree_index, events[i].tree_index);
      EXPECT_EQ(read[i].node, events[i].node);
      EXPECT_EQ(read[i].parent, events[i].parent);
      EXPECT_EQ(read[i].path, events[i].path);
      EXPECT_EQ(read[i].time_us, events[i].time_us);
      Node payload =
          events[i].payload;  // id and path travel with the event, the parent's index does not
      payload.id = events[i].node;
      payload.path = events[i].path;
      payload.parent = -1;
      EXPECT_TRUE(testing::same_node(read[i].payload, payload)) << i;
    }
    EXPECT_TRUE(testing::same_tree(read[0].header, events[0].header));
  }
}

/// Names and terminal text are bytes: a record must not become unreadable for them.
TEST(Journal, TextNeedNotBeUtf8) {
  TempDir dir;
  const std::string odd("caf\xe9 \xff\0", 7);
  Event event;
  event.type = EventType::tree_started;
  event.path = event.text = odd;
  event.header.task = event.header.family = event.header.prompt = odd;
  Event turn;
  turn.type = EventType::turn;
  turn.payload.command = turn.payload.observation = turn.payload.failure = odd;
  turn.payload.fork_rule = turn.payload.snapshot = odd;
  {
    JournalWriter writer(dir.path(), Durability::none);
    writer.append(event);
    writer.append(turn);
  }
  std::string damage;
  const auto read = read_all(dir.path(), &damage);
  ASSERT_EQ(read.size(), 2u) << damage;
  EXPECT_EQ(read[0].path, odd);
  EXPECT_EQ(read[0].text, odd);
  EXPECT_TRUE(testing::same_tree(read[0].header, event.header));
  EXPECT_TRUE(testing::same_node(read[1].payload, turn.payload));
}

TEST(Journal, MissingOrEmptyDirectory) {
  TempDir dir;
  EXPECT_TRUE(read_all(dir.path()).empty());
  EXPECT_THROW(JournalReader(dir.path() / "none"), common::StoreError);
  common::write_file_atomically(dir.path() / "file", "x");
  EXPECT_THROW(JournalWriter(dir.path() / "file" / "journal", Durability::batch),
               common::StoreError);
}

/// Cut at every byte: each complete record survives, the rest is cut, and appending goes on.
TEST(Journal, KeepsEveryCompleteRecordWhereverItIsCut) {
  TempDir whole_dir;
  write_texts(whole_dir.path(), 0, 5);
  const std::string whole = common::read_file(whole_dir.path() / "000001.log");
  size_t survivors_before = 0;
  for (size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    TempDir dir;
    overwrite(dir.path() / "000001.log", whole.substr(0, bytes));
    std::string damage;
    const auto before = read_texts(dir.path(), &damage);
    ASSERT_GE(before.size(), survivors_before);
    survivors_before = before.size();
    uint64_t cut = 0;
    write_texts(dir.path(), 100, 101, &cut);
    const bool clean = cut == 0;
    EXPECT_EQ(damage.empty(), clean) << "at byte " << bytes << ": " << damage;
    const auto after = read_texts(dir.path(), &damage);
    EXPECT_EQ(damage, "");
    ASSERT_EQ(after.size(), before.size() + 1);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i], "event " + std::to_string(i));
    EXPECT_EQ(after.back(), "event 100");
  }
  EXPECT_EQ(survivors_before, 5u);
}

TEST(Journal, DetectsEverySingleByteCorruption) {
  TempDir whole_dir;
  write_texts(whole_dir.path(), 0, 4);
  const std::string whole = common::read_file(whole_dir.path() / "000001.log");
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int flip : {1, 0x80, 0xff}) {
      TempDir dir;
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ flip);
      overwrite(dir.path() / "000001.log", damaged);
      std::string damage;
      const auto texts = read_texts(dir.path(), &damage);
      EXPECT_NE(damage, "") << "byte " << at;
      EXPECT_LT(texts.size(), 4u);
      for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(texts[i], "event " + std::to_string(i));
    }
  }
}

TEST(Journal, PutsCompleteRecordsBehindDamageAside) {
  TempDir dir;
  write_texts(dir.path(), 0, 4);
  const fs::path file = dir.path() / "000001.log";
  std::string content = common::read_file(file);
  content[content.size() / 2] ^= 0x10;
  overwrite(file, content);
  const size_t kept = read_texts(dir.path()).size();
  uint64_t cut = 0;
  write_texts(dir.path(), 100, 101, &cut);
  EXPECT_EQ(common::read_file(file.string() + ".damaged"), content.substr(content.size() - cut));
  EXPECT_EQ(read_texts(dir.path()).size(), kept + 1);
}

TEST(Journal, RefusesWhatIsNoJournal) {
  TempDir dir;
  overwrite(dir.path() / "000001.log", "this is a text file of some length");
  EXPECT_THROW(JournalWriter(dir.path(), Durability::batch), common::StoreError);
  std::string damage;
  EXPECT_TRUE(read_all(dir.path(), &damage).empty());
  EXPECT_NE(damage.find("ESPJRNL"), std::string::npos);
}

/// A record of a type from a newer version is skipped by the reader and kept by the writer.
TEST(Journal, KeepsAndSkipsUnknownTypes) {
  TempDir dir;
  write_texts(dir.path(), 0, 1);
  const fs::path file = dir.path() / "000001.log";
  const std::string payload = "anything";
  std::string covered{8, 0, 0, 0};
  covered += {'\x39', '\x30', 0, 0};  // type 12345
  const uint32_t crc = common::masked_crc32c(covered + payload);
  std::string record = covered.substr(0, 4);
  for (int i = 0; i < 4; ++i) record += static_cast<char>(crc >> (8 * i) & 0xff);
  record += covered.substr(4) + payload;
  std::ofstream(file, std::ios::binary | std::ios::app) << record;
  write_texts(dir.path(), 1, 2);
  std::string damage;
  EXPECT_EQ(read_texts(dir.path(), &damage), (std::vector<std::string>{"event 0", "event 1"}));
  EXPECT_EQ(damage, "");
  EXPECT_NE(common::read_file(file).find(record), std::string::npos);
}

TEST(Journal, AReaderFollowsWhileItGrowsAndRotates) {
  TempDir dir;
  JournalWriter writer(dir.path(), Durability::none);
  JournalReader reader(dir.path());
  EXPECT_EQ(reader.next(), std::nullopt);
  const std::string large(size_t{9} << 20, 'x');
  int read = 0;
  for (int i = 0; i < 20; ++i) {  // 180 MB in files of 64: two rotations
    writer.append(text_event(std::to_string(i) + large));
    writer.flush();
    while (auto event = reader.next()) {
      ASSERT_EQ(event->text, std::to_string(read++) + large);
    }
    ASSERT_EQ(read, i + 1);
    EXPECT_EQ(reader.damage(), "");
  }
  EXPECT_TRUE(fs::exists(dir.path() / "000002.log"));
  EXPECT_TRUE(fs::exists(dir.path() / "000003.log"));
  EXPECT_EQ(read_all(dir.path()).size(), 20u);
}

TEST(Journal, AReaderSeesARecordOnceItIsComplete) {
  TempDir whole_dir, dir;
  write_texts(whole_dir.path(), 0, 2);
  const std::string whole = common::read_file(whole_dir.path() / "000001.log");
  const fs::path file = dir.path() / "000001.log";
  overwrite(file, whole.substr(0, whole.size() - 3));
  JournalReader reader(dir.path());
  EXPECT_TRUE(reader.next().has_value());
  EXPECT_FALSE(reader.next().has_value());
  EXPECT_NE(reader.damage(), "");
  std::ofstream(file, std::ios::binary | std::ios::app) << whole.substr(whole.size() - 3);
  EXPECT_TRUE(reader.next().has_value());
  EXPECT_FALSE(reader.next().has_value());
  EXPECT_EQ(reader.damage(), "");
}

TEST(Journal, KeepsTheOrderOfEveryThread) {
  TempDir dir;
  constexpr int kThreads = 4, kEvents = 3000;
  {
    JournalWriter writer(dir.path(), Durability::batch);
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < kEvents; ++i) {
          Event event = text_event(std::to_string(i));
          event.tree_index = static_cast<uint64_t>(t);
          writer.append(event);
          if (i % 1000 == 0) writer.flush();
        }
      });
    for (auto& thread : threads) thread.join();
  }
  std::map<uint64_t, int> next;
  for (const Event& event : read_all(dir.path()))
    ASSERT_EQ(event.text, std::to_string(next[event.tree_index]++));
  for (int t = 0; t < kThreads; ++t) EXPECT_EQ(next[static_cast<uint64_t>(t)], kEvents);
}

/// Appends with durability sync and reports each acknowledged number through the pipe, until
/// killed.
[[noreturn]] void append_until_killed(const fs::path& directory, int start, int pipe) {
  try {
    JournalWriter writer(directory, Durability::sync);
    for (int i = start;; ++i) {
      writer.append(text_event(std::to_string(i)));
      if (::write(pipe, &i, sizeof i) != sizeof i) break;
    }
  } catch (const std::exception&) {
  }
  ::_exit(1);
}

TEST(Journal, NothingAcknowledgedWithSyncIsLostToSigkill) {
  TempDir dir;
  int next = 0;
  for (int round = 0; round < 25; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      append_until_killed(dir.path(), next, ends[1]);
    }
    ::close(ends[1]);
    int acknowledged = -1, value = 0;
    const int until = next + round % 7;
    while (::read(ends[0], &value, sizeof value) == sizeof value) {
      acknowledged = value;
      if (value >= until) ::kill(child, SIGKILL);
    }
    ::close(ends[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    const auto texts = read_texts(dir.path());
    ASSERT_GT(static_cast<int>(texts.size()), acknowledged);
    for (size_t i = 0; i < texts.size(); ++i) ASSERT_EQ(texts[i], std::to_string(i));
    next = static_cast<int>(texts.size());
  }
}

TEST(Journal, ASecondProcessIsRefused) {
  TempDir dir;
  JournalWriter writer(dir.path(), Durability::none);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    try {
      JournalWriter second(dir.path(), Durability::none);
    } catch (const common::StoreError&) {
      ::_exit(7);
    }
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

/// Whether append(), flush() and every later call report that the file can grow no further.
bool full_disk_is_reported(const fs::path& directory) {
  testing::limit_file_size(64 << 10);
  JournalWriter writer(directory, Durability::batch);
  auto refused = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const common::StoreError& error) {
      return std::string(error.what()).find("000001.log") != std::string::npos;
    }
    return false;
  };
  for (int i = 0; i < 200; ++i) {
    const auto next = [&] {
      writer.append(text_event(std::to_string(i) + "," + std::string(1000, 'x')));
      writer.flush();
    };
    if (refused(next)) return refused(next) && refused([&] { writer.flush(); });
  }
  return false;
}

/// The limit on file sizes, in a child, stands for the disk's.
TEST(Journal, AFullDiskIsAStoreErrorAndWhatWasWrittenStays) {
  TempDir dir;
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) ::_exit(full_disk_is_reported(dir.path()) ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  uint64_t cut = 0;
  write_texts(dir.path(), 0, 1, &cut);
  EXPECT_GT(cut, 0u);
  std::string damage;
  const auto texts = read_texts(dir.path(), &damage);
  EXPECT_EQ(damage, "");
  ASSERT_GT(texts.size(), 50u);
  for (size_t i = 0; i + 1 < texts.size(); ++i)
    EXPECT_TRUE(texts[i].starts_with(std::to_string(i) + ",")) << i;
}

}  // namespace
}  // namespace espalier::tree
