#include "envs/nursery/nursery.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <set>

#include "common/error.h"
#include "common/files.h"
#include "envs/nursery/archive.h"
#include "envs/nursery/lexicon.h"

namespace espalier::envs::nursery {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr Tier kTiers[] = {Tier::base, Tier::hard, Tier::luck};

std::vector<std::string> all_families() {
  std::vector<std::string> all;
  for (Tier tier : kTiers)
    for (std::string& name : families(tier)) all.push_back(std::move(name));
  return all;
}

/// A few tasks of every family and depth.
std::vector<Blueprint> samples(uint64_t seeds) {
  std::vector<Blueprint> tasks;
  for (const std::string& family : all_families())
    for (int depth = kMinDepth; depth <= kMaxDepth; ++depth)
      for (uint64_t seed = 0; seed < seeds; ++seed)
        tasks.push_back(make_blueprint({family, seed, depth}));
  return tasks;
}

std::string replaced(std::string text, std::string_view from, const std::string& to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

/// The task's files in a directory of this machine, with a plain bash: what the tasks mean can be
/// tried without a sandbox. Modes do not bind a test run as root; the sandbox's tests cover those.
class Workshop {
 public:
  explicit Workshop(const Blueprint& blueprint) : test_script_(blueprint.test_script) {
    fs::create_directories(app());
    for (const FileSpec& file : blueprint.files) {
      fs::path path = app() / file.path;
      if (file.directory) {
        fs::create_directories(path);
      } else {
        std::ofstream(path, std::ios::binary) << file.content;
      }
      fs::permissions(path, static_cast<fs::perms>(file.mode));
    }
  }

  /// What each command printed, stdout and stderr together.
  std::vector<std::string> run(const std::vector<std::string>& commands) {
    std::string script = "cd " + app().string() + "\n";
    for (const std::string& command : commands) script += command + "\nprintf '\\001'\n";
    std::string printed = bash(script);
    std::vector<std::string> outputs;
    for (size_t at = 0, end; (end = printed.find('\1', at)) != std::string::npos; at = end + 1)
      outputs.push_back(printed.substr(at, end - at));
    return outputs;
  }

  std::string reward(const std::string& setting = "") {
    std::string reward_file = (directory_.path() / "reward.txt").string();
    std::string script = replaced(test_script_, "/logs/verifier/reward.txt", reward_file);
    bash(setting + replaced(script, "cd /app", "cd " + app().string()));
    std::string text = common::read_file(reward_file);
    return text.substr(0, text.find('\n'));
  }

 private:
  fs::path app() const { return directory_.path() / "app"; }

  std::string bash(const std::string& script) {
    fs::path file = directory_.path() / "script.sh";
    std::ofstream(file) << "exec 2>&1 </dev/null\nexport LC_ALL=C.UTF-8\n" << script;
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(("bash " + file.string()).c_str(), "r"),
                                               &pclose);
    std::string output;
    std::array<char, 4096> buffer;
    while (size_t size = fread(buffer.data(), 1, buffer.size(), pipe.get()))
      output.append(buffer.data(), size);
    return output;
  }

  common::TempDir directory_{"nursery"};
  std::string test_script_;
};

std::string fingerprint(const Blueprint& blueprint) {
  std::string text = blueprint.instruction + blueprint.test_script;
  for (const auto& command : blueprint.oracle) text += command + "\n";
  for (const auto& name : blueprint.names) text += name + "\n";
  for (const auto& file : blueprint.files)
    text += file.path + file.content + std::to_string(file.mode) + std::to_string(file.directory);
  return text;
}

TEST(NurseryTaskId, ReadsWhatItPrints) {
  TaskId id = parse_task_id("nursery:maze+find/17/d3");
  EXPECT_EQ(id.family, "maze+find");
  EXPECT_EQ(id.seed, 17u);
  EXPECT_EQ(id.depth, 3);
  EXPECT_EQ(id.name(), "nursery:maze+find/17/d3");
}

TEST(NurseryTaskId, DrawsTheDepthFromTheSeedWhenNoneIsGiven) {
  std::set<int> depths;
  for (int seed = 0; seed < 64; ++seed) {
    std::string name = "nursery:chain/" + std::to_string(seed);
    EXPECT_EQ(parse_task_id(name).depth, parse_task_id(name).depth);
    depths.insert(parse_task_id(name).depth);
  }
  EXPECT_THAT(depths, ElementsAre(1, 2, 3, 4));
}

TEST(NurseryTaskId, RefusesWithTheTextSeenAndWhatIsAllowed) {
  for (const char* bad : {"nursery:", "nursery:find", "nursery:find/", "nursery:find/x",
                          "nursery:find/1/2", "nursery:find/1/d0", "nursery:find/1/d5",
                          "nursery:find/1/d", "nursery:nope/1", "find/1", "nursery:find/-1"}) {
    try {
      parse_task_id(bad);
      ADD_FAILURE() << bad << " was accepted";
    } catch (const common::TaskError& error) {
      EXPECT_THAT(error.what(), HasSubstr(bad));
      EXPECT_THAT(error.what(), HasSubstr("maze+cfg"));
    }
  }
}

TEST(NurseryFamilies, AreThoseOfTheSuite) {
  EXPECT_THAT(families(Tier::base),
              ElementsAre("find", "chain", "cfg", "most", "fix", "tar", "perm", "maze"));
  EXPECT_EQ(families(Tier::hard).size(), 9u);
  EXPECT_THAT(families(Tier::luck), ElementsAre("luck"));
  EXPECT_EQ(tier_of("tar+most"), Tier::hard);
  EXPECT_THROW(tier_of("tar+chain"), common::TaskError);
}

TEST(NurseryLexicon, NoWordContainsAnotherWordOrKey) {
  std::vector<std::string_view> all(words().begin(), words().end());
  all.insert(all.end(), keys().begin(), keys().end());
  for (std::string_view word : all)
    for (std::string_view other : all)
      EXPECT_TRUE(word == other || word.find(other) == word.npos) << word << " has " << other;
}

TEST(NurseryBlueprint, IsAFunctionOfItsId) {
  for (const Blueprint& task : samples(2)) {
    EXPECT_EQ(fingerprint(task), fingerprint(make_blueprint(task.id))) << task.id.name();
    TaskId other = task.id;
    other.seed += 1000;
    EXPECT_NE(fingerprint(task), fingerprint(make_blueprint(other))) << task.id.name();
  }
}

TEST(NurseryBlueprint, EndsWithExitAndLeavesOneTurnToSpare) {
  for (const Blueprint& task : samples(1)) {
    EXPECT_EQ(task.oracle.back(), "exit");
    EXPECT_EQ(task.max_turns(), static_cast<int>(task.oracle.size()) + 1);
    EXPECT_EQ(task.instruction.find('\n'), std::string::npos);
    EXPECT_GE(task.names.size(), 12u);
  }
}

TEST(NurseryBlueprint, RefusesWhatIsNotThere) {
  EXPECT_THROW(make_blueprint({"nope", 1, 1}), common::TaskError);
  EXPECT_THROW(make_blueprint({"find", 1, 0}), common::TaskError);
  EXPECT_THROW(make_blueprint({"find", 1, kMaxDepth + 1}), common::TaskError);
}

TEST(NurseryReward, IsOneForTheOracleAndZeroForNothing) {
  for (const Blueprint& task : samples(2)) {
    Workshop workshop(task);
    EXPECT_EQ(workshop.reward(), "0") << task.id.name();
    workshop.run(task.oracle);
    EXPECT_EQ(workshop.reward(), "1") << task.id.name();
  }
}

TEST(NurseryReward, NeedsTheLastStepsOfTheOracle) {
  for (const Blueprint& task : samples(2)) {
    std::vector<std::string> cut(task.oracle.begin(), task.oracle.end() - 2);
    Workshop workshop(task);
    workshop.run(cut);
    EXPECT_EQ(workshop.reward(), "0") << task.id.name();
  }
}

TEST(NurseryReward, IsNotHadByWritingOkWithoutMeetingTheNeeds) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Workshop workshop(make_blueprint({"fix", seed, 2}));
    workshop.run({"echo ok > out"});
    EXPECT_EQ(workshop.reward(), "0");
    workshop.run({"echo 'echo ok > out' > run", "sh run"});
    EXPECT_EQ(workshop.reward(), "0");
  }
}

TEST(NurseryReward, IsNotHadByChangingEverySetting) {
  for (uint64_t seed = 0; seed < 6; ++seed) {
    Blueprint task = make_blueprint({"cfg", seed, 1});
    Workshop workshop(task);
    std::string setting = task.instruction.substr(4);
    workshop.run({"for f in *; do echo " + setting + " > $f; done"});
    EXPECT_EQ(workshop.reward(), "0");
  }
}

TEST(NurseryReward, OfTheHardTierAsksForTheWayToo) {
  for (const char* family :
       {"fix+find", "fix+cfg", "fix+most", "tar+find", "tar+cfg", "tar+most"}) {
    Blueprint task = make_blueprint({family, 5, 2});
    Workshop workshop(task);
    workshop.run({task.oracle.end() - 3, task.oracle.end()});
    EXPECT_EQ(workshop.reward(), "0") << family;
  }
}

TEST(NurseryReward, SurvivesWhatAnAgentMayLeaveBehind) {
  Blueprint task = make_blueprint({"chain", 3, 1});
  for (const char* mess : {"mkfifo out", "mkdir out", "ln -s /dev/zero out", "ln -s out out",
                           "head -c 100000 /dev/zero | tr '\\0' x > out"}) {
    Workshop workshop(task);
    workshop.run({mess});
    EXPECT_EQ(workshop.reward(), "0") << mess;
  }
}

TEST(NurseryReward, OfLuckHangsOnTheEpisodesKey) {
  Workshop workshop(make_blueprint({"luck", 1, 1}));
  EXPECT_EQ(workshop.reward("ESPALIER_EPISODE_KEY=00ff10\n"), "0");
  workshop.run(make_blueprint({"luck", 1, 1}).oracle);
  EXPECT_EQ(workshop.reward("ESPALIER_EPISODE_KEY=00ff10\n"), "1");
  EXPECT_EQ(workshop.reward("ESPALIER_EPISODE_KEY=00ff1b\n"), "0.5");
  EXPECT_EQ(workshop.reward(), "1");
}

/// The episode as a policy reads it, in tokens of the pieces and of single bytes, by longest match.
size_t tokens_of(const std::string& text) {
  static const std::vector<std::string> pieces = [] {
    std::vector<std::string> sorted = token_pieces();
    std::sort(sorted.begin(), sorted.end(),
              [](const auto& a, const auto& b) { return a.size() > b.size(); });
    return sorted;
  }();
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) {
    auto piece = std::find_if(pieces.begin(), pieces.end(), [&](const std::string& candidate) {
      return text.compare(at, candidate.size(), candidate) == 0;
    });
    at += piece == pieces.end() ? 1 : piece->size();
  }
  return count;
}

TEST(NurseryTokens, WholeEpisodesFitASmallContext) {
  constexpr size_t kContext = 230;
  size_t longest = 0, total = 0, episodes = 0;
  for (const Blueprint& task : samples(2)) {
    Workshop workshop(task);
    std::vector<std::string> outputs = workshop.run(task.oracle);
    ASSERT_EQ(outputs.size(), task.oracle.size() - 1) << task.id.name();
    std::string text = task.instruction + "\n";
    for (size_t i = 0; i < task.oracle.size(); ++i)
      text += "$ " + task.oracle[i] + "\n" + (i < outputs.size() ? outputs[i] : "");
    size_t tokens = tokens_of(text);
    EXPECT_LT(tokens, kContext) << task.id.name() << "\n" << text;
    longest = std::max(longest, tokens);
    total += tokens;
    ++episodes;
  }
  RecordProperty("longest_episode_tokens", static_cast<int>(longest));
  RecordProperty("mean_episode_tokens", static_cast<int>(total / episodes));
  EXPECT_LT(total / episodes, 80u);
}

// As many as the farm shows by default: an answer further down would not be seen.
TEST(NurseryTokens, EveryOutputTheOracleNeedsIsShownWhole) {
  constexpr size_t kShownTokens = 48;
  for (const Blueprint& task : samples(3)) {
    if (tier_of(task.id.family) != Tier::hard && task.id.family != "most") continue;
    for (const std::string& output : Workshop(task).run(task.oracle))
      EXPECT_LE(tokens_of(output), kShownTokens) << task.id.name() << "\n" << output;
  }
}

TEST(NurseryTokens, AreDistinctAndFew) {
  std::vector<std::string> pieces = token_pieces();
  EXPECT_EQ(std::set<std::string>(pieces.begin(), pieces.end()).size(), pieces.size());
  EXPECT_LE(pieces.size(), 180u);
  for (const std::string& piece : pieces) EXPECT_GE(piece.size(), 2u);
}

TEST(NurserySplits, ShareNoSeed) {
  auto range = [](Split split) {
    std::pair<uint64_t, uint64_t> ends{UINT64_MAX, 0};
    for (uint64_t run = 0; run < 4; ++run)
      for (uint64_t index = 0; index < 2000; ++index) {
        uint64_t seed = draw_task(split, run, index, {}).seed;
        ends = {std::min(ends.first, seed), std::max(ends.second, seed)};
      }
    return ends;
  };
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (Split split : {Split::sft, Split::train, Split::eval, Split::test})
    ranges.push_back(range(split));
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) EXPECT_LT(ranges[i - 1].second, ranges[i].first);
}

TEST(NurserySplits, OnlyTrainingTasksDependOnTheRun) {
  auto names = [](Split split, uint64_t run) {
    std::set<std::string> drawn;
    for (uint64_t index = 0; index < 320; ++index)
      drawn.insert(draw_task(split, run, index, {}).name());
    return drawn;
  };
  EXPECT_EQ(names(Split::eval, 1), names(Split::eval, 2));
  EXPECT_EQ(names(Split::test, 1), names(Split::test, 2));
  EXPECT_EQ(names(Split::eval, 1).size(), 320u);
  EXPECT_NE(names(Split::train, 1), names(Split::train, 2));
  EXPECT_NE(names(Split::sft, 1), names(Split::sft, 2));
  EXPECT_EQ(names(Split::train, 1), names(Split::train, 1));
}

TEST(NurserySplits, CoverFamiliesAndDepthsEvenly) {
  std::map<std::string, int> per_family;
  std::map<int, int> per_depth;
  for (uint64_t index = 0; index < 800; ++index) {
    TaskId id = draw_task(Split::train, 7, index, {{}, 2, 4});
    ++per_family[id.family];
    ++per_depth[id.depth];
  }
  ASSERT_EQ(per_family.size(), 8u);
  for (const auto& [family, count] : per_family) EXPECT_EQ(count, 100) << family;
  ASSERT_EQ(per_depth.size(), 3u);
  for (const auto& [depth, count] : per_depth) EXPECT_NEAR(count, 800 / 3, 60) << depth;
}

TEST(NurserySplits, RefuseUnknownFamiliesAndDepths) {
  EXPECT_THROW(draw_task(Split::train, 1, 0, {{"nope"}, 1, 2}), common::TaskError);
  EXPECT_THROW(draw_task(Split::train, 1, 0, {{}, 3, 2}), common::TaskError);
  EXPECT_THROW(draw_task(Split::train, 1, 0, {{}, 1, 5}), common::TaskError);
}

TEST(NurseryNoisyOracle, WithoutNoiseIsTheOracle) {
  Blueprint task = make_blueprint({"maze", 4, 3});
  NoisyOracle oracle(task, 0.0, {1});
  for (const std::string& command : task.oracle) EXPECT_EQ(oracle.next(), command);
  EXPECT_EQ(oracle.next(), "exit");
}

TEST(NurseryNoisyOracle, ErrsAsOftenAsToldAndDependsOnTheKeyAlone) {
  int turns = 0, planned = 0;
  for (uint64_t key = 0; key < 400; ++key) {
    Blueprint task = make_blueprint(draw_task(Split::sft, 1, key, {}));
    NoisyOracle oracle(task, 0.15, {key}), twin(task, 0.15, {key});
    for (int turn = 0; turn < task.max_turns(); ++turn) {
      std::string command = oracle.next();
      EXPECT_EQ(command, twin.next());
      planned += std::count(task.oracle.begin(), task.oracle.end(), command) > 0;
      ++turns;
      if (command == "exit") break;
    }
  }
  // Some mistakes happen to be planned commands too.
  double wrong = 1.0 - static_cast<double>(planned) / turns;
  EXPECT_GT(wrong, 0.07);
  EXPECT_LT(wrong, 0.15);
}

TEST(NurseryNoisyOracle, RecoversFromItsMistakes) {
  int solved = 0, episodes = 0;
  for (uint64_t index = 0; index < 160; ++index) {
    Blueprint task = make_blueprint(draw_task(Split::sft, 2, index, {}));
    NoisyOracle oracle(task, 0.15, {index});
    std::vector<std::string> commands;
    bool left_early = false;
    do {
      commands.push_back(oracle.next());
    } while (commands.back() != "exit" && commands.size() < 40);
    left_early = std::find(commands.begin(), commands.end(), task.oracle[task.oracle.size() - 2]) ==
                 commands.end();
    if (left_early) continue;
    Workshop workshop(task);
    workshop.run(commands);
    solved += workshop.reward() == "1";
    ++episodes;
  }
  EXPECT_GT(episodes, 120);
  EXPECT_GT(solved, episodes * 9 / 10);
}

TEST(NurseryArchive, IsTheSameEverywhere) {
  EXPECT_EQ(make_tar({{"delta", "got north\n"}}), make_tar({{"delta", "got north\n"}}));
  EXPECT_NE(make_tar({{"delta", "got north\n"}}), make_tar({{"delta", "got south\n"}}));
}

TEST(NurseryArchive, PrintsItsMembersNameWhenUnpacked) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    Blueprint task = make_blueprint({"tar", seed, 2});
    std::vector<std::string> outputs = Workshop(task).run(task.oracle);
    EXPECT_EQ(outputs[0], task.oracle[1].substr(std::string("tar xvf ").size()) + "\n");
    EXPECT_EQ(outputs[1], task.oracle[2].substr(std::string("cat ").size()) + "\n");
  }
}

}  // namespace
}  // namespace espalier::envs::nursery
