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
/// lies between them becomes one token a byte (byte-level BPE without merges). Thread contract:
/// immutable, any thread.
class Tokenizer {
 public:
  /// All 256 bytes (token id = byte) plus `pieces` as added tokens, in their order. Duplicates,
  /// empty and one-byte pieces are dropped. Errors: PolicyError for a piece that is not UTF-8 (the
  /// file format cannot hold it).
  static std::shared_ptr<const Tokenizer> from_pieces(const std::vector<std::string>& pieces);
  /// Errors: PolicyError with path and reason, also for a tokenizer of a kind that is not
  /// supported.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& tokenizer_json);
  /// tokenizer.json text; loads in the `tokenizers` library with the same encodings.
  std::string to_json() const;

  std::vector<Token> encode(std::string_view text) const;
  /// Raw bytes. Errors: PolicyError for an id that is no token's.
  std::string decode(const std::vector<Token>& tokens) const;
  size_t vocab_size() const;  // highest id + 1

  Tokenizer();
  ~Tokenizer();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

}  // namespace espalier::policy
