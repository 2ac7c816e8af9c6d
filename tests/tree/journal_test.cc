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
#include "tree/random_tree.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using common::TempDir;
using testing::random_tree;

Event text_event(const std::string& text) {
  Event event;
  event.type = EventType::checkpoint;
  event.text = text;
  return event;
}

/// What the farm appends for a tree.
std::vector<Event> events_of(const Tree& tree, bool seal = true) {
  std::vector<Event> events;
  Event start;
  start.type = EventType::tree_started;
  start.tree_index = tree.index;
  start.header = tree;
  start.header.nodes.clear();
  events.push_back(start);
  for (const Node& node : tree.nodes) {
    Event event;
    event.tree_index = tree.index;
    event.node = node.id;
    event.path = node.path;
    event.time_us = 1234567;
    event.type = EventType::turn;
    event.parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    event.payload = node;
    event.payload.observation.clear();
    event.payload.reward.reset();
    event.payload.outcome = Outcome::none;
    event.payload.failure.clear();
    events.push_back(event);
    event.type = EventType::observation;
    event.payload = {};
    event.payload.observation = node.observation;
    event.payload.exit_code = node.exit_code;
    event.payload.timed_out = node.timed_out;
    events.push_back(event);
    if (!node.fork_rule.empty()) {
      event.type = EventType::fork;
      event.payload = {};
      event.payload.fork_rule = node.fork_rule;
      events.push_back(event);
    }
    if (node.outcome == Outcome::none) continue;
    event.type = node.reward ? EventType::verdict : EventType::failure;
    event.payload = {};
    event.payload.outcome = node.outcome;
    event.payload.reward = node.reward;
    event.payload.failure = node.failure;
    events.push_back(event);
  }
  if (seal) {
    Event sealed;
    sealed.type = EventType::tree_sealed;
    sealed.tree_index = tree.index;
    events.push_back(sealed);
  }
  return events;
}

std::vector<Event> read_all(const fs::path& directory, std::string* damage = nullptr) {
  JournalReader reader(directory);
  std::vector<Event> events;
  while (auto event = reader.next()) events.push_back(*event);
  if (damage) *damage = reader.damage();
  return events;
}

std::vector<std::string> read_texts(const fs::path& directory, std::string* damage = nullptr) {
  std::vector<std::string> texts;
  for (const Event& event : read_all(directory, damage)) texts.push_back(event.text);
  return texts;
}

void write_texts(const fs::path& directory, int from, int to, uint64_t* cut = nullptr) {
  JournalWriter writer(directory, Durability::batch);
  if (cut) *cut = writer.cut_bytes();
  for (int i = from; i < to; ++i) writer.append(text_event("event " + std::to_string(i)));
  writer.flush();
}

void overwrite(const fs::path& file, const std::string& content) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
}

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

TEST(Recover, RebuildsTheTrees) {
  TempDir dir;
  std::vector<Tree> trees;
  {
    JournalWriter writer(dir.path(), Durability::batch);
    std::vector<std::vector<Event>> streams;
    for (uint64_t number = 0; number < 30; ++number) {
      trees.push_back(random_tree(number));
      streams.push_back(events_of(trees.back(), number % 3 != 0));
    }
    for (size_t i = 0, left = 1; left > 0; ++i) {  // interleaved, as concurrent episodes append
      left = 0;
      for (const auto& stream : streams) {
        if (i < stream.size()) writer.append(stream[i]);
        left += i + 1 < stream.size();
      }
    }
  }
  const auto recovered = recover_trees(dir.path());
  ASSERT_EQ(recovered.size(), trees.size());
  for (size_t i = 0; i < trees.size(); ++i) {
    EXPECT_TRUE(testing::same_tree(recovered[i].tree, trees[i])) << i;
    EXPECT_EQ(recovered[i].sealed, i % 3 != 0);
  }
  EXPECT_EQ(recover_trees(dir.path(), {0, 5}).size(), trees.size() - 2);
}

/// However short the journal, what is recovered is a part of the tree with its nodes' parents.
TEST(Recover, TolerantOfMissingTails) {
  const Tree tree = random_tree(11);
  const auto events = events_of(tree);
  for (size_t count = 0; count <= events.size(); ++count) {
    TempDir dir;
    {
      JournalWriter writer(dir.path(), Durability::none);
      for (size_t i = 0; i < count; ++i) writer.append(events[i]);
    }
    const auto recovered = recover_trees(dir.path());
    ASSERT_EQ(recovered.size(), count == 0 ? 0u : 1u);
    if (count == 0) continue;
    EXPECT_EQ(recovered[0].sealed, count == events.size());
    for (const Node& node : recovered[0].tree.nodes)
      EXPECT_EQ(node.id,
                node_id(node.parent < 0 ? tree.id : recovered[0].tree.nodes[node.parent].id, node));
  }
}

TEST(Recover, FindsParentsByPathWhenTheIdIsNotGiven) {
  TempDir dir;
  const Tree tree = random_tree(11);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (Event event : events_of(tree)) {
      event.parent = {};
      writer.append(event);
    }
  }
  EXPECT_TRUE(testing::same_tree(recover_trees(dir.path()).at(0).tree, tree));
}

TEST(Recover, TellsDamageFromAnUnfinishedEnd) {
  TempDir dir;
  const Tree tree = random_tree(11);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (const Event& event : events_of(tree)) writer.append(event);
  }
  const fs::path file = dir.path() / "000001.log";
  const std::string whole = common::read_file(file);
  std::string damage = "stale";
  EXPECT_TRUE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_EQ(damage, "");
  overwrite(file, whole.substr(0, whole.size() - 3));
  EXPECT_FALSE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_EQ(damage, "");
  std::string damaged = whole;
  damaged[whole.size() - 3] ^= 1;
  overwrite(file, damaged);
  EXPECT_FALSE(recover_trees(dir.path(), {}, &damage).at(0).sealed);
  EXPECT_NE(damage.find("checksum"), std::string::npos) << damage;
}

TEST(Recover, ATreeStartedAgainStartsAnew) {
  TempDir dir;
  const Tree tree = random_tree(4);
  auto events = events_of(tree);
  {
    JournalWriter writer(dir.path(), Durability::none);
    for (size_t i = 0; i + 2 < events.size(); ++i) writer.append(events[i]);
    for (const Event& event : events) writer.append(event);
  }
  const auto recovered = recover_trees(dir.path());
  ASSERT_EQ(recovered.size(), 1u);
  EXPECT_TRUE(testing::same_tree(recovered[0].tree, tree));
}

TEST(Recover, AGivenUpNodeIsDroppedUnlessItIsDoneAgain) {
  Tree tree = random_tree(4, {.failure_probability = 0});
  const size_t last = tree.nodes.size() - 1;
  auto events = events_of(tree);
  Event failure;
  failure.type = EventType::failure;
  failure.tree_index = tree.index;
  failure.node = tree.nodes[last].id;
  failure.text = R"({"retry":1})";
  std::vector<Event> of_last;
  for (const Event& event : events)
    if (event.node == failure.node) of_last.push_back(event);

  TempDir dir, again_dir;
  {
    JournalWriter writer(dir.path(), Durability::none), again(again_dir.path(), Durability::none);
    for (const Event& event : events) {
      writer.append(event);
      again.append(event);
    }
    writer.append(failure);
    again.append(failure);
    for (const Event& event : of_last) again.append(event);
  }
  EXPECT_TRUE(testing::same_tree(recover_trees(again_dir.path()).at(0).tree, tree));
  tree.nodes.pop_back();
  EXPECT_TRUE(testing::same_tree(recover_trees(dir.path()).at(0).tree, tree));
}

}  // namespace
}  // namespace espalier::tree
