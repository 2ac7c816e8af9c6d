// Checkpoints and tokenizers as the Hugging Face libraries see them.
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "common/files.h"
#include "policy/models.h"
#include "policy/safetensors.h"
#include "policy/tokenizer.h"

namespace espalier::policy {
namespace {

std::vector<std::string> texts() {
  std::vector<std::string> result = {
      "find thorn\n$ ",
      "grep -l thorn *\nquartz\n$ cp quartz out\n",
      "sed -i s/mode=4/mode=2/ quartz",
      "",
      " leading and trailing ",
      "tab\there, caf\u00e9, \u4e2d\u6587, \u0416\u0443\u043a, \U0001F333",
      "cat cat catcat  cat\r\n\r\n"};
  common::Rng rng(common::RngKey{12});
  const std::string alphabet = "catgrep -l$>\n out x\u00e9=";
  for (int i = 0; i < 40; ++i) {
    std::string text;
    for (int j = 0; j < 30; ++j) text += static_cast<char>(rng.range(0, 127));
    for (int j = 0; j < 30; ++j) {
      const char c =
          alphabet[static_cast<size_t>(rng.range(0, static_cast<int64_t>(alphabet.size()) - 1))];
      if (static_cast<unsigned char>(c) < 128) text += c;
    }
    result.push_back(text);
  }
  return result;
}

void write_fixture(const std::filesystem::path& directory, bool qk_norm, bool tied) {
  ModelShape shape = testing::tiny_shape();
  shape.qk_norm = qk_norm;
  shape.tie_word_embeddings = tied;
  shape.rope_theta = 50000.0;
  const auto weights = testing::random_weights(shape, 13);
  save_weights(directory, *weights);
  const auto tokens = testing::random_tokens(40, shape.vocab_size, 14);
  std::vector<double> logits;
  for (const auto& row : testing::reference_logits(*weights, tokens))
    logits.insert(logits.end(), row.begin(), row.end());
  TensorMap expected;
  expected["tokens"] = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), at::kLong);
  expected["logits"] = at::tensor(logits, at::kDouble).to(at::kFloat).view({40, shape.vocab_size});
  save_safetensors(directory / "expected.safetensors", expected);
  const auto tokenizer =
      Tokenizer::from_pieces({"cat ", "cat", "grep -l ", "grep ", "grep -c ", " > out", "$ ",
                              "thorn", "quartz", "\r\n", "mode", " out"});
  common::write_file_atomically(directory / "tokenizer.json", tokenizer->to_json());
  nlohmann::json encodings = nlohmann::json::array();
  for (const std::string& text : texts()) {
    encodings.push_back({{"text", text}, {"ids", tokenizer->encode(text)}});
  }
  common::write_file_atomically(directory / "encodings.json", encodings.dump());
}

TEST(HuggingFace, LoadsOurFilesAndAgrees) {
  const char* python = std::getenv("ESPALIER_HF_PYTHON");
  if (!python) {
    GTEST_SKIP() << "ESPALIER_HF_PYTHON names no Python with torch, transformers and tokenizers";
  }
  for (auto [qk_norm, tied] : {std::pair(true, true), {true, false}, {false, true}}) {
    const common::TempDir directory;
    write_fixture(directory.path(), qk_norm, tied);
    std::string command(python);
    command += " " ESPALIER_SOURCE_DIR "/tests/policy/hf_check.py ";
    command += directory.path().string();
    EXPECT_EQ(std::system(command.c_str()), 0) << "qk_norm " << qk_norm << ", tied " << tied;
  }
}

}  // namespace
}  // namespace espalier::policy
