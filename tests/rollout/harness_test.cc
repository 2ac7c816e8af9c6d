#include "rollout/harness.h"

#include <gtest/gtest.h>

namespace espalier::rollout {
namespace {

class BashHarnessTest : public ::testing::Test {
 protected:
  policy::TokenizerPtr tokenizer = policy::Tokenizer::from_pieces({"look", "word "});
  std::unique_ptr<Harness> harness = make_bash_harness(tokenizer, 4);

  Shown observe(const std::string& output) const {
    envs::Observation observation;
    observation.output = output;
    return harness->observe(observation);
  }
};

TEST_F(BashHarnessTest, PromptIsTheInstructionAndAShellPrompt) {
  envs::Task task;
  task.instruction = "find thorn\n";
  EXPECT_EQ(tokenizer->decode(harness->prompt(task)), "find thorn\n$ ");
}

TEST_F(BashHarnessTest, ActionsRoundTrip) {
  const auto tokens = harness->encode_action("look here");
  EXPECT_EQ(tokens.back(), harness->stop_tokens().at(0));
  EXPECT_EQ(harness->parse(tokens).command, "look here");
  EXPECT_FALSE(harness->parse(tokens).ends);
}

TEST_F(BashHarnessTest, OnlyTheSerialHarnessRefusesConcurrentCommands) {
  const auto serial = make_bash_harness(tokenizer, 4, /*serial_only=*/true);
  auto refused = [&](const std::string& command) {
    EXPECT_EQ(harness->parse(harness->encode_action(command)).refusal, "") << command;
    return !serial->parse(serial->encode_action(command)).refusal.empty();
  };
  for (const char* command :
       {"a & b", "a&", "a | b", "a|&b", "cat <(ls)", "tee >(cat)", "coproc cat"})
    EXPECT_TRUE(refused(command)) << command;
  for (const char* command :
       {"a && b", "a || b", "a 2>&1", "a &> out", "a >&2", "a <&3", "a; b", "(a)"})
    EXPECT_FALSE(refused(command)) << command;
}

TEST_F(BashHarnessTest, AnActionThatWasCutIsRunAsTyped) {
  const ParsedAction action = harness->parse(tokenizer->encode("look h"));
  EXPECT_EQ(action.command, "look h");
}

TEST_F(BashHarnessTest, ExitEnds) {
  for (const char* command : {"exit", "exit 0", "exit 17", " exit\t3 "})
    EXPECT_TRUE(harness->parse(harness->encode_action(command)).ends) << command;
  for (const char* command : {"", "exits", "exit now", "exit; ls", "echo exit"})
    EXPECT_FALSE(harness->parse(harness->encode_action(command)).ends) << command;
}

TEST_F(BashHarnessTest, ObservationsLoseOneNewlineAndAreFollowedByThePrompt) {
  EXPECT_EQ(tokenizer->decode(observe("abc\n").tokens), "abc\n$ ");
  EXPECT_EQ(tokenizer->decode(observe("ab\n\n").tokens), "ab\n\n$ ");
  EXPECT_EQ(observe("abc\n").text, "abc");
}

TEST_F(BashHarnessTest, AnEmptyObservationIsThePromptAlone) {
  EXPECT_EQ(tokenizer->decode(observe("").tokens), "$ ");
  EXPECT_EQ(tokenizer->decode(observe("\n").tokens), "$ ");
}

TEST_F(BashHarnessTest, LongObservationsAreCutByTokens) {
  const Shown shown = observe("word word word word word word ");
  EXPECT_EQ(shown.text, "word word word word ");
  EXPECT_EQ(tokenizer->decode(shown.tokens), "word word word word \n$ ");
}

TEST_F(BashHarnessTest, BytesThatAreNoTextSurvive) {
  EXPECT_EQ(observe(std::string("\xff\x00\x80", 3)).text, std::string("\xff\x00\x80", 3));
}

}  // namespace
}  // namespace espalier::rollout
