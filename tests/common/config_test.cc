#include "common/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <regex>
#include <set>

#include "common/config_table.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier::common {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

/// What is wrong with a file "x.yaml" of this text; empty when nothing is.
std::string error_of(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse_config(yaml, "x.yaml", overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

Config with(const std::vector<std::string>& overrides) {
  return parse_config("{}", "x.yaml", overrides);
}

std::string override_error(const std::string& assignment) { return error_of("{}", {assignment}); }

TEST(Config, ReadsEveryTypeAndKeepsDefaults) {
  const Config config = parse_config(R"(
name: first
seed: 18446744073709551615
deterministic: true
data: {families: [find, "chain"], train_batch_size: 4}
learner:
  optim:
    lr: 1e-6
)",
                                     "x.yaml", {});
  EXPECT_EQ(config.name, "first");
  EXPECT_EQ(config.seed, 18446744073709551615u);
  EXPECT_TRUE(config.deterministic);
  EXPECT_THAT(config.data.families, ElementsAre("find", "chain"));
  EXPECT_EQ(config.data.train_batch_size, 4);
  EXPECT_EQ(config.learner.optim.lr, 1e-6);
  EXPECT_EQ(config.rollout.n, Config().rollout.n);
  EXPECT_EQ(config.sft.optim.lr, Config().sft.optim.lr);
}

TEST(Config, ReadsDottedKeysAndEmptySections) {
  const Config config =
      parse_config("rollout.n: 3\nlearner.optim: {lr: 0.1}\nsft:\nenv: {}\n", "x.yaml", {});
  EXPECT_EQ(config.rollout.n, 3);
  EXPECT_EQ(config.learner.optim.lr, 0.1);
}

TEST(Config, DefaultsAreValid) { EXPECT_EQ(error_of("{}"), ""); }

// Printing.

/// A configuration whose every value differs from the default and has awkward digits or characters.
Config unusual() {
  Config config = with({"name=a: b #c", "run_dir=/tmp/x y\"z\\", "seed=9007199254740993",
                        "deterministic=true", "durability=sync", "model.path=true",
                        "data.families=[maze+find, 'a, b', '', '[x]', \"tab\\there\"]",
                        "data.trees=null", "algorithm.adv_estimator=rloo", "trainer.logger=[]",
                        "env.network=true", "learner.optim.lr=0.1", "learner.optim.eps=1e-12",
                        "learner.grad_clip=123456.789", "budget.limit=1e17", "rollout.top_k=5"});
  config.learner.optim.weight_decay = 1.0 / 3;
  config.rollout.temperature = 0x1.fffffffffffffp-3;
  config.model.rope_theta = 1e6;
  return config;
}

TEST(ToYaml, RoundTripsExactly) {
  for (const Config& config : {Config(), unusual()}) {
    const std::string yaml = to_yaml(config);
    const Config again = parse_config(yaml, "again.yaml", {});
    for (const auto& key : config::keys()) {
      EXPECT_EQ(config::format_value(key, again), config::format_value(key, config)) << key.path;
    }
    EXPECT_EQ(to_yaml(again), yaml);
  }
  const Config config = unusual();
  const Config again = parse_config(to_yaml(config), "again.yaml", {});
  EXPECT_EQ(again.name, "a: b #c");
  EXPECT_EQ(again.run_dir, "/tmp/x y\"z\\");
  EXPECT_EQ(again.seed, 9007199254740993u);
  EXPECT_EQ(again.model.path, "true");
  EXPECT_EQ(again.data.trees, "null");
  EXPECT_THAT(again.data.families, ElementsAre("maze+find", "a, b", "", "[x]", "tab\there"));
  EXPECT_EQ(again.rollout.temperature, config.rollout.temperature);
  EXPECT_EQ(again.learner.optim.weight_decay, config.learner.optim.weight_decay);
}

TEST(ToYaml, NestsSectionsInTheOrderOfTheTable) {
  const std::string yaml = to_yaml(Config());
  EXPECT_THAT(yaml, ::testing::StartsWith("name: run\nrun_dir: runs\nseed: 1\n"));
  EXPECT_THAT(yaml, HasSubstr("\nlearner:\n  loss: ppo_clip\n"));
  EXPECT_THAT(yaml, HasSubstr("\n  optim:\n    lr: 5e-4\n    lr_warmup_steps: 10\n"));
  EXPECT_THAT(yaml, HasSubstr("\n  logger: [jsonl, tensorboard]\n"));
  EXPECT_THAT(yaml, HasSubstr("\n  path: \"\"\n"));
}

// The table.

TEST(ConfigTable, EveryKeyTakesItsOwnDefaultAndStandsInASection) {
  std::set<std::string> paths;
  for (const auto& key : config::keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path << " stands twice";
    EXPECT_TRUE(config::is_section(config::parent_of(key.path))) << key.path;
    EXPECT_FALSE(key.help.empty()) << key.path;
    EXPECT_EQ(error_of(key.path + ": " + config::format_value(key, Config())), "") << key.path;
  }
}

TEST(ConfigTable, CoversEveryFieldOfTheStructs) {
  // There is no reflection to ask, so the header's text is.
  const std::string header = read_file(fs::path(ESPALIER_SOURCE_DIR) / "src/common/config.h");
  const std::regex field(R"(\n  (?!.*Config \w+)[\w:<>]+(?:<[\w:]+>)? (\w+)(?: = [^;\n]+)?;)");
  std::multiset<std::string> fields, known;
  for (auto it = std::sregex_iterator(header.begin(), header.end(), field);
       it != std::sregex_iterator(); ++it) {
    fields.insert((*it)[1]);
  }
  for (const auto& key : config::keys()) {
    // OptimConfig serves two sections.
    if (!key.path.starts_with("sft.optim.")) known.insert(config::last_of(key.path));
  }
  EXPECT_EQ(fields, known);
}

TEST(ConfigHelp, DocumentsEveryKeyWithDefaultTypeAndAllowedValues) {
  const std::string help = config_help();
  for (const auto& key : config::keys()) {
    EXPECT_THAT(help, HasSubstr("  " + key.path + " = ")) << key.path;
  }
  EXPECT_THAT(help, HasSubstr("  rollout.n = 8  (integer: 1 to 4096)\n      Root episodes"));
  EXPECT_THAT(help, HasSubstr("(text: tree_loo, rloo, grpo, dr_grpo,"));
  EXPECT_THAT(help, HasSubstr("(number: more than 0, up to 1)\n"));
  EXPECT_THAT(help, HasSubstr("\nalgorithm.tree: "));
  for (size_t begin = 0; begin < help.size();) {
    const size_t end = help.find('\n', begin);
    EXPECT_LE(end - begin, 100u) << help.substr(begin, end - begin);
    begin = end + 1;
  }
}

// Unknown keys.

TEST(UnknownKey, SaysFileLineKeyAndNearestKey) {
  EXPECT_EQ(error_of("name: a\nlearner:\n  optim:\n    learning_rate: 1e-4\n"),
            "x.yaml:4: unknown key 'learner.optim.learning_rate'; did you mean "
            "'learner.optim.lr'?");
  EXPECT_EQ(error_of("rollout:\n  tempertaure: 1\n"),
            "x.yaml:2: unknown key 'rollout.tempertaure'; did you mean 'rollout.temperature'?");
  EXPECT_EQ(error_of("lerner: {loss: grpo}"),
            "x.yaml:1: unknown key 'lerner'; did you mean 'learner'?");
  EXPECT_EQ(error_of("xyzzy: 1"),
            "x.yaml:1: unknown key 'xyzzy'; `espalier help config` lists every key");
}

TEST(UnknownKey, EveryOneIsReportedAtOnce) {
  const std::string error = error_of("sede: 1\nrollout: {N: 3}\n", {"lr=1"});
  EXPECT_EQ(error,
            "x.yaml:1: unknown key 'sede'; did you mean 'seed'?\n"
            "x.yaml:2: unknown key 'rollout.N'; did you mean 'rollout.n'?\n"
            "command line: unknown key 'lr'; did you mean 'learner.optim.lr'?");
}

TEST(UnknownKey, NamesOfOtherTrainersLeadToOurs) {
  const std::pair<const char*, const char*> cases[] = {
      {"actor_rollout_ref.rollout.n", "rollout.n"},
      {"actor_rollout_ref.rollout.temperature", "rollout.temperature"},
      {"actor_rollout_ref.actor.optim.lr", "learner.optim.lr"},
      {"actor_rollout_ref.actor.ppo_mini_batch_size", "learner.ppo_mini_batch_size"},
      {"actor_rollout_ref.actor.clip_ratio", "learner.clip_ratio_low"},
      {"actor_rollout_ref.model.path", "model.path"},
      {"actor.optim.lr", "learner.optim.lr"},
      {"optim.lr", "learner.optim.lr"},
      {"learning_rate", "learner.optim.lr"},
      {"sft.learning_rate", "sft.optim.lr"},
      {"sft.lr", "sft.optim.lr"},
      {"sft.optim.learning_rate", "sft.optim.lr"},
      {"num_generations", "rollout.n"},
      {"group_size", "rollout.n"},
      {"max_steps", "trainer.total_steps"},
      {"max_completion_length", "rollout.max_response_length"},
      {"data.max_response_length", "rollout.max_response_length"},
      {"trainer.total_epochs", "trainer.total_steps"},
      {"train_batch_size", "data.train_batch_size"},
      {"adv_estimator", "algorithm.adv_estimator"},
      {"fork_rule", "algorithm.tree.fork_rule"},
      {"algorithm.fork_rule", "algorithm.tree.fork_rule"},
      {"learner.clip_ratio_hihg", "learner.clip_ratio_high"},
      {"test_freq", "trainer.test_freq"},
      {"output_dir", "run_dir"},
      {"actor_rollout_ref.actor.use_kl_loss", "learner.kl_loss_coef"},
  };
  for (const auto& [unknown, known] : cases) {
    EXPECT_THAT(
        override_error(std::string(unknown) + "=1"),
        HasSubstr("unknown key '" + std::string(unknown) + "'; did you mean '" + known + "'?"));
  }
}

TEST(UnknownKey, NestedSectionsOfOtherTrainersAreReadToTheirLeaves) {
  const std::string error =
      error_of("actor_rollout_ref:\n  rollout:\n    n: 8\n  actor:\n    x: 1\n");
  EXPECT_THAT(error, HasSubstr("x.yaml:3: unknown key 'actor_rollout_ref.rollout.n'; did you mean "
                               "'rollout.n'?"));
  EXPECT_THAT(error, HasSubstr("x.yaml:5: unknown key 'actor_rollout_ref.actor.x'"));
}

TEST(UnknownKey, WhatDoesNotExistHereIsSaidSo) {
  for (const char* name : {"algorithm.kl_ctrl.kl_coef", "algorithm.use_kl_in_reward"}) {
    EXPECT_THAT(
        override_error(std::string(name) + "=0"),
        AllOf(HasSubstr("there is no KL term in the reward here"), Not(HasSubstr("did you mean"))));
  }
}

TEST(EditDistance, CountsTranspositionsOnce) {
  EXPECT_EQ(config::edit_distance("", "abc"), 3u);
  EXPECT_EQ(config::edit_distance("abc", "acb"), 1u);
  EXPECT_EQ(config::edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(config::edit_distance("same", "same"), 0u);
}

// Duplicates.

TEST(DuplicateKey, NamesBothLines) {
  EXPECT_EQ(error_of("rollout:\n  n: 3\n  top_k: 5\n  n: 4\n"),
            "x.yaml:4: duplicate key 'rollout.n'; first set on line 2");
  EXPECT_EQ(error_of("rollout: {n: 3}\nseed: 2\nrollout: {top_p: 1}\n"),
            "x.yaml:3: duplicate key 'rollout'; first set on line 1");
  EXPECT_EQ(error_of("rollout: {n: 3}\nrollout.n: 4\n"),
            "x.yaml:2: duplicate key 'rollout.n'; first set on line 1");
}

// Types and ranges.

TEST(WrongType, SaysWhatWasExpectedSeenAndAllowed) {
  EXPECT_EQ(error_of("\nrollout: {n: 1.5}"),
            "x.yaml:2: rollout.n: expected an integer, got '1.5'; allowed: 1 to 4096");
  EXPECT_EQ(error_of("rollout: {n: \"8\"}"),
            "x.yaml:1: rollout.n: expected an integer, got the text \"8\"; allowed: 1 to 4096");
  EXPECT_EQ(error_of("rollout: {n: [8]}"),
            "x.yaml:1: rollout.n: expected an integer, got a list; allowed: 1 to 4096");
  EXPECT_EQ(error_of("rollout: {n: {a: 1}}"),
            "x.yaml:1: rollout.n: expected an integer, got a map; allowed: 1 to 4096");
  EXPECT_EQ(error_of("rollout:\n  n:\n"),
            "x.yaml:2: rollout.n: expected an integer, got nothing; allowed: 1 to 4096");
  EXPECT_EQ(error_of("learner: {grad_clip: fast}"),
            "x.yaml:1: learner.grad_clip: expected a finite number, got 'fast'; allowed: more than "
            "0, up to 1e9");
  EXPECT_EQ(error_of("name: [a]"), "x.yaml:1: name: expected a text, got a list");
  EXPECT_EQ(error_of("name:"),
            "x.yaml:1: name: expected a text, got nothing; an empty text is written \"\"");
  EXPECT_EQ(error_of("data: {families: find}"),
            "x.yaml:1: data.families: expected a list of texts, got 'find'; a list is written "
            "[find]");
  EXPECT_EQ(error_of("data: {families: [find, [a]]}"),
            "x.yaml:1: data.families: expected texts in the list, got a list");
  EXPECT_EQ(error_of("rollout: 3"), "x.yaml:1: rollout: expected a map of keys, got '3'");
  EXPECT_EQ(error_of("rollout: [n]"), "x.yaml:1: rollout: expected a map of keys, got a list");
}

TEST(WrongType, IntegersTakeNoOtherNotation) {
  for (const char* text : {"1e3", "0x10", "1_000", "8 ", "+", "-", "eight", "true"}) {
    EXPECT_THAT(override_error("rollout.n=\"" + std::string(text) + "\""),
                HasSubstr("expected an"));
  }
  for (const char* text : {"1e3", "0x10", "1_000", "8.0", "eight", ".5"}) {
    EXPECT_THAT(override_error("rollout.n=" + std::string(text)),
                HasSubstr("expected an integer, got '" + std::string(text) + "'"));
  }
  EXPECT_EQ(with({"rollout.n=+8"}).rollout.n, 8);
}

TEST(WrongType, NumbersAreFinite) {
  for (const char* text : {"nan", ".nan", "inf", "-inf", ".inf", "1,5", "1.5x", "1e", "--1"}) {
    EXPECT_THAT(override_error("learner.optim.lr=" + std::string(text)),
                HasSubstr("expected a finite number, got '" + std::string(text) + "'"));
  }
  EXPECT_EQ(with({"learner.optim.lr=1"}).learner.optim.lr, 1.0);
  EXPECT_EQ(with({"learner.optim.lr=+.5"}).learner.optim.lr, 0.5);
}

TEST(WrongType, BooleansAreTrueOrFalseOnly) {
  for (const char* text : {"yes", "True", "1", "on"}) {
    EXPECT_EQ(override_error("eval.greedy=" + std::string(text)),
              "command line: eval.greedy: expected true or false, got '" + std::string(text) + "'");
  }
  EXPECT_FALSE(with({"eval.greedy=false"}).eval.greedy);
}

TEST(OutOfRange, SaysValueAndRange) {
  EXPECT_EQ(error_of("seed: 1\nrollout:\n  n: 0\n"),
            "x.yaml:3: rollout.n: 0 is out of range; allowed: 1 to 4096");
  EXPECT_EQ(override_error("rollout.n=99999999999999999999"),
            "command line: rollout.n: 99999999999999999999 is out of range; allowed: 1 to 4096");
  EXPECT_EQ(override_error("seed=-1"),
            "command line: seed: -1 is out of range; allowed: 0 to 18446744073709551615");
  EXPECT_EQ(override_error("seed=18446744073709551616"),
            "command line: seed: 18446744073709551616 is out of range; allowed: 0 to "
            "18446744073709551615");
  EXPECT_EQ(override_error("rollout.top_p=0"),
            "command line: rollout.top_p: 0 is out of range; allowed: more than 0, up to 1");
  EXPECT_EQ(override_error("learner.optim.beta1=1"),
            "command line: learner.optim.beta1: 1 is out of range; allowed: 0 to less than 1");
  EXPECT_THAT(override_error("learner.optim.lr=1e999"), HasSubstr("1e999 is out of range"));
  EXPECT_THAT(override_error("learner.optim.lr=-1e-9"), HasSubstr("-1e-9 is out of range"));
  EXPECT_EQ(with({"rollout.top_p=1"}).rollout.top_p, 1.0);
}

TEST(Choices, AreListedWithTheNearest) {
  EXPECT_THAT(error_of("algorithm: {adv_estimator: tree_lo}"),
              AllOf(StartsWith("x.yaml:1: algorithm.adv_estimator: unknown value 'tree_lo'; "
                               "allowed: tree_loo, rloo, grpo, "),
                    EndsWith("; did you mean 'tree_loo'?")));
  EXPECT_THAT(override_error("algorithm.tree.fork_rule=sometimes"),
              StartsWith("command line: algorithm.tree.fork_rule: unknown value 'sometimes'; "
                         "allowed: none, uniform, online_entropy"));
  EXPECT_EQ(override_error("trainer.logger=[jsonl,wandb]"),
            "command line: trainer.logger: unknown value 'wandb'; allowed: jsonl, tensorboard");
  EXPECT_THAT(override_error("budget.unit=tokens"), HasSubstr("generated_tokens"));
  EXPECT_EQ(with({"learner.loss=grpo"}).learner.loss, "grpo");
}

// Overrides.

TEST(Overrides, ApplyInOrderOverTheFile) {
  const Config config = parse_config("rollout: {n: 3}", "x.yaml",
                                     {"rollout.n=4", "rollout.n=5", "data.families=[find,chain]",
                                      "name=a=b", "model.path='quoted # text'"});
  EXPECT_EQ(config.rollout.n, 5);
  EXPECT_THAT(config.data.families, ElementsAre("find", "chain"));
  EXPECT_EQ(config.name, "a=b");
  EXPECT_EQ(config.model.path, "quoted # text");
  EXPECT_EQ(with({"model.path="}).model.path, "");
  EXPECT_THAT(with({"trainer.logger=[]"}).trainer.logger, ElementsAre());
}

TEST(Overrides, AreCheckedAsTheFileIs) {
  EXPECT_EQ(override_error("rollout.n=two"),
            "command line: rollout.n: expected an integer, got 'two'; allowed: 1 to 4096");
  EXPECT_EQ(override_error("rollout.n="),
            "command line: rollout.n: expected an integer, got nothing; allowed: 1 to 4096");
  EXPECT_EQ(override_error("rollout.n"), "command line: 'rollout.n': expected key=value");
  EXPECT_EQ(override_error("=3"), "command line: '=3': expected key=value");
  EXPECT_EQ(override_error("rollout={n: 3}"),
            "command line: 'rollout' is a section; set the keys in it one by one");
  EXPECT_THAT(override_error("data.families=[find"), HasSubstr("expected a list of texts"));
}

// Files.

TEST(ConfigFile, MustBeReadable) {
  const TempDir dir;
  const auto load_error = [](const fs::path& file) -> std::string {
    try {
      load_config(file, {});
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  const fs::path missing = dir.path() / "none.yaml";
  EXPECT_EQ(load_error(missing),
            "read configuration: open " + missing.string() + ": No such file or directory");
  EXPECT_THAT(load_error(dir.path()), HasSubstr("Is a directory"));
  const fs::path secret = dir.path() / "secret.yaml";
  write_file_atomically(secret, "seed: 1");
  EXPECT_EQ(load_error(secret), "");
  fs::permissions(secret, fs::perms::none);
  if (::geteuid() == 0) GTEST_SKIP() << "root reads files without permission";
  EXPECT_THAT(load_error(secret), HasSubstr("Permission denied"));
}

TEST(ConfigFile, MustBeOneMap) {
  for (const char* nothing : {"", "\n\n", "# only a comment\n", "---\n", "~"}) {
    EXPECT_EQ(error_of(nothing),
              "x.yaml: empty; expected a map of keys; `espalier help config` lists every key")
        << nothing;
  }
  EXPECT_THAT(error_of("[a, b]"),
              HasSubstr("x.yaml:1: expected a map of keys at the top, got a list"));
  EXPECT_THAT(error_of("hello"), HasSubstr("got a single value"));
  EXPECT_THAT(error_of("seed: 1\n---\nseed: 2\n"), HasSubstr("x.yaml:3: a second YAML document"));
}

TEST(ConfigFile, BrokenYamlNamesTheLine) {
  EXPECT_THAT(error_of("seed: 1\nrollout: {n: 3\n"),
              ::testing::MatchesRegex("x.yaml:[0-9]+: not valid YAML: .*"));
  EXPECT_THAT(error_of("seed: 1\n\tname: x\n"), HasSubstr("x.yaml:2: not valid YAML"));
  EXPECT_THAT(error_of("? [a]\n: 1\n"), HasSubstr("expected the name of a key"));
}

TEST(ConfigFile, AliasesWorkAndMayNotHoldThemselves) {
  const Config config =
      parse_config("learner: {optim: &shared {lr: 0.25}}\nsft: {optim: *shared}\n", "x.yaml", {});
  EXPECT_EQ(config.sft.optim.lr, 0.25);
  EXPECT_THAT(error_of("data: {families: &x [*x]}"), HasSubstr("expected texts in the list"));
  EXPECT_THAT(error_of("actor: &x {y: *x}"), HasSubstr("unknown key 'actor.y"));
  EXPECT_THAT(error_of("data: {families: " + std::string(100000, '[')),
              HasSubstr("not valid YAML"));
}

TEST(ConfigFile, ReadsEveryConfigurationOfTheRepository) {
  size_t loaded = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(ESPALIER_SOURCE_DIR) / "configs")) {
    if (!entry.is_regular_file()) continue;
    EXPECT_EQ(entry.path().extension(), ".yaml") << entry.path() << ": configs/ holds YAML only";
    EXPECT_NO_THROW(load_config(entry.path(), {})) << entry.path();
    ++loaded;
  }
  EXPECT_GE(loaded, 3u);
  const fs::path configs = fs::path(ESPALIER_SOURCE_DIR) / "configs";
  const Config trees = load_config(configs / "quickstart.yaml", {});
  const Config linear = load_config(configs / "nursery" / "linear.yaml", {});
  EXPECT_EQ(trees.budget.limit, linear.budget.limit);
  EXPECT_EQ(linear.algorithm.tree.fork_rule, "none");
}

// Relations between keys.

TEST(Conflicts, NameThePlaceTheKeysAndTheValues) {
  EXPECT_EQ(error_of("data:\n  depth_min: 3\n  depth_max: 2\n"),
            "x.yaml:2: data.depth_min 3 is greater than data.depth_max 2");
  EXPECT_EQ(error_of("seed: 1", {"eval.depth_max=1", "eval.depth_min=2"}),
            "command line: eval.depth_min 2 is greater than eval.depth_max 1");
  EXPECT_THAT(override_error("sft.depth_min=3"),
              HasSubstr("sft.depth_min 3 is greater than sft.depth_max 2"));
}

TEST(Conflicts, ModelShapesMustFit) {
  EXPECT_EQ(override_error("model.hidden_size=66"),
            "command line: model.hidden_size 66 is not a multiple of model.num_attention_heads 4");
  EXPECT_THAT(override_error("model.hidden_size=60"), HasSubstr("60 over 4 heads is 15 a head"));
  EXPECT_EQ(
      override_error("model.num_key_value_heads=3"),
      "command line: model.num_key_value_heads 3 does not divide model.num_attention_heads 4");
  EXPECT_EQ(override_error("model.num_key_value_heads=2"), "");
}

TEST(Conflicts, BatchesMustHoldWhatTheyAreMadeOf) {
  EXPECT_EQ(override_error("learner.ppo_max_token_len_per_gpu=255"),
            "command line: learner.ppo_max_token_len_per_gpu 255 is less than one path of "
            "model.max_position_embeddings 256");
  EXPECT_EQ(
      override_error("learner.ppo_mini_batch_size=17"),
      "command line: learner.ppo_mini_batch_size 17 is greater than data.train_batch_size 16");
  EXPECT_THAT(override_error("rollout.max_response_length=256"),
              HasSubstr("leaves no room for a prompt"));
}

TEST(Conflicts, EstimatorsNeedSomethingToCompare) {
  EXPECT_THAT(
      error_of("algorithm: {adv_estimator: rloo, tree: {fork_rule: none}}\nrollout: {n: 1}\n"),
      AllOf(HasSubstr("x.yaml:2: rollout.n 1"), HasSubstr("'rloo'"),
            HasSubstr("allowed: 2 and more")));
  EXPECT_NE(error_of("{}", {"rollout.n=1", "algorithm.tree.fork_rule=none"}), "");
  EXPECT_EQ(override_error("rollout.n=1"), "") << "branchings compare too";
}

TEST(Conflicts, OddOnesOut) {
  EXPECT_THAT(override_error("rollout.top_k=0"), HasSubstr("allowed: -1 (all), or 1 and more"));
  EXPECT_THAT(override_error("learner.clip_ratio_c=0.5"), HasSubstr("allowed: 0 (off)"));
  EXPECT_THAT(override_error("learner.clip_ratio_low=-0.5"), HasSubstr("negative"));
  EXPECT_THAT(override_error("algorithm.overlong_buffer=5"), HasSubstr("longer than"));
  EXPECT_NE(error_of("{sft: {episodes: 0}, learner: {sft_coef: 0.1}}"), "");
  EXPECT_EQ(override_error("learner.clip_ratio_c=0"), "");
  for (const char* name : {"", "a/b", ".."}) {
    EXPECT_THAT(override_error("name=" + std::string(name)), HasSubstr("cannot name a folder"));
  }
  EXPECT_THAT(override_error("run_dir="), HasSubstr("run_dir is empty"));
}

}  // namespace
}  // namespace espalier::common
