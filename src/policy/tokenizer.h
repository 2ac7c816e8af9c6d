// Byte-level tokenizer in the `tokenizer.json` format of Hugging Face tokenizers.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "policy/context.h"

namespace espalier::policy {

/// Encodes any bytes and decodes them back. Added tokens are matched leftmost, longest first; what
/// lies between goes through byte-level BPE (with no merges in the small vocabularies made here).
/// Thread contract: immutable, any thread.
class Tokenizer {
 public:
  /// All 256 bytes plus `pieces` as added tokens. Duplicates and one-byte pieces are dropped.
  static std::shared_ptr<const Tokenizer> from_pieces(const std::vector<std::string>& pieces);
  /// Errors: PolicyError with path and reason, also for a tokenizer of a kind that is not
  /// supported.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& tokenizer_json);
  /// tokenizer.json text; loads in the `tokenizers` library with the same encodings.
  std::string to_json() const;

  std::vector<Token> encode(std::string_view text) const;
  std::string decode(const std::vector<Token>& tokens) const;  // raw bytes
  size_t vocab_size() const;

  Tokenizer();
  ~Tokenizer();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

}  // namespace espalier::policy
