#include "policy/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/error.h"
#include "common/files.h"
#include "common/rng.h"

namespace espalier::policy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> pieces() {
  return {"cat ", "cat", "grep -l ", "grep ", "grep -c ", " > out", "$ ",
          "x",    "cat", "",         "ab",    "abc",      "abcd",   "bcde"};
}

std::string random_bytes(size_t size, uint64_t seed) {
  common::Rng rng(common::RngKey{seed});
  std::string text;
  for (size_t i = 0; i < size; ++i) text += static_cast<char>(rng.range(0, 255));
  return text;
}

TEST(Tokenizer, DecodesWhatItEncodes) {
  const auto tokenizer = Tokenizer::from_pieces(pieces());
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const std::string text =
        random_bytes(200, seed) + "grep -c cat > out" + random_bytes(20, seed + 1000);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_TRUE(tokenizer->encode("").empty());
}

TEST(Tokenizer, IdsAreBytesThenPiecesInOrder) {
  const auto tokenizer = Tokenizer::from_pieces(pieces());
  // "x", "" and the second "cat" are dropped.
  EXPECT_EQ(tokenizer->vocab_size(), 256u + 11);
  EXPECT_THAT(tokenizer->encode("x\xff"), ElementsAre('x', 0xff));
  EXPECT_THAT(tokenizer->encode("cat"), ElementsAre(257));
}

TEST(Tokenizer, MatchesLeftmostThenLongest) {
  const auto tokenizer = Tokenizer::from_pieces(pieces());
  EXPECT_THAT(tokenizer->encode("cat cat"), ElementsAre(256, 257));
  EXPECT_THAT(tokenizer->encode("grep -l grep -x"), ElementsAre(258, 259, '-', 'x'));
  EXPECT_THAT(tokenizer->encode("abcde"), ElementsAre(265, 'e'));  // not a + bcde
  EXPECT_THAT(tokenizer->encode("abce"), ElementsAre(264, 'e'));
}

TEST(Tokenizer, RefusesUnknownIdsAndPiecesThatAreNotText) {
  const auto tokenizer = Tokenizer::from_pieces(pieces());
  EXPECT_THROW(tokenizer->decode({267}), common::PolicyError);
  EXPECT_THROW(tokenizer->decode({-1}), common::PolicyError);
  EXPECT_THROW(Tokenizer::from_pieces({"ok", "\xff\xfe"}), common::PolicyError);
}

class TokenizerFile : public ::testing::Test {
 protected:
  std::filesystem::path write(const std::string& text) {
    common::write_file_atomically(directory_.path() / "tokenizer.json", text);
    return directory_.path() / "tokenizer.json";
  }
  std::string message(const nlohmann::json& file) {
    try {
      Tokenizer::load(write(file.dump()));
    } catch (const common::PolicyError& error) {
      return error.what();
    }
    return "no error";
  }
  nlohmann::json good() {
    return nlohmann::json::parse(Tokenizer::from_pieces(pieces())->to_json());
  }

  common::TempDir directory_;
};

TEST_F(TokenizerFile, LoadsWhatItSaved) {
  const auto tokenizer = Tokenizer::from_pieces(pieces());
  const auto loaded = Tokenizer::load(write(tokenizer->to_json()));
  EXPECT_EQ(loaded->to_json(), tokenizer->to_json());
  EXPECT_EQ(loaded->vocab_size(), tokenizer->vocab_size());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::string text = random_bytes(30, seed) + "cat abcd > out$ ";
    EXPECT_EQ(loaded->encode(text), tokenizer->encode(text));
  }
}

TEST_F(TokenizerFile, SaysWhatItCannotHonour) {
  nlohmann::json file = good();
  file["normalizer"] = {{"type", "NFC"}};
  EXPECT_THAT(message(file), HasSubstr("normalizer"));
  file = good();
  file["model"]["merges"] = {"a b"};
  EXPECT_THAT(message(file), HasSubstr("merges"));
  file = good();
  file["model"]["type"] = "Unigram";
  EXPECT_THAT(message(file), HasSubstr("BPE"));
  file = good();
  file["pre_tokenizer"]["use_regex"] = true;
  EXPECT_THAT(message(file), HasSubstr("use_regex"));
  file = good();
  file["pre_tokenizer"] = nullptr;
  EXPECT_THAT(message(file), HasSubstr("pre_tokenizer"));
  file = good();
  file["pre_tokenizer"]["add_prefix_space"] = "no";
  EXPECT_THAT(message(file), HasSubstr("add_prefix_space"));
  file = good();
  file["decoder"]["type"] = 3;
  EXPECT_THAT(message(file), HasSubstr("decoder"));
  file = good();
  file["model"]["type"] = nullptr;
  EXPECT_THAT(message(file), HasSubstr("BPE"));
  file = good();
  file["post_processor"] = {{"type", "TemplateProcessing"}};
  EXPECT_THAT(message(file), HasSubstr("post_processor"));
  file["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  EXPECT_EQ(message(file), "no error");
  file = good();
  file["model"]["vocab"].erase("a");
  EXPECT_THAT(message(file), HasSubstr("256 bytes"));
  file = good();
  file["model"]["vocab"]["a"] = file["model"]["vocab"]["b"];
  EXPECT_THAT(message(file), HasSubstr("same id"));
  file = good();
  file["added_tokens"][0]["id"] = "zero";
  EXPECT_THAT(message(file), HasSubstr("id is \"zero\""));
  file = good();
  file["added_tokens"][0]["lstrip"] = true;
  EXPECT_THAT(message(file), HasSubstr("lstrip"));
  file = good();
  file["added_tokens"][0].erase("content");
  EXPECT_THAT(message(file), HasSubstr("content"));
  file = good();
  file.erase("model");
  EXPECT_THAT(message(file), HasSubstr("no model"));
  EXPECT_THAT(message(nlohmann::json::array()), HasSubstr("not a JSON object"));
  EXPECT_THROW(Tokenizer::load(write("{\"model\":")), common::PolicyError);
  EXPECT_THROW(Tokenizer::load(directory_.path() / "absent.json"), common::PolicyError);
}

}  // namespace
}  // namespace espalier::policy
