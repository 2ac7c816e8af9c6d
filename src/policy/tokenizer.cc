#include "policy/tokenizer.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "common/error.h"
#include "common/files.h"

namespace espalier::policy {
namespace fs = std::filesystem;
using common::PolicyError;
using nlohmann::json;
using nlohmann::ordered_json;
namespace {

constexpr int64_t kMaxTokenId = 1 << 24;

std::string to_utf8(uint32_t code_point) {  // below U+0800: all the byte alphabet needs
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3F))};
}

/// The visible character that stands for each byte in byte-level vocabularies (GPT-2's table):
/// printable Latin-1 bytes stand for themselves, the others follow from U+0100 on.
std::array<std::string, 256> byte_alphabet() {
  std::array<std::string, 256> alphabet;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    alphabet[byte] = to_utf8(printable ? byte : next++);
  }
  return alphabet;
}

bool is_utf8(const std::string& text) {
  try {
    (void)json(text).dump();
    return true;
  } catch (const json::type_error&) {
    return false;
  }
}

}  // namespace

struct Tokenizer::Impl {
  struct Piece {
    std::string text;
    Token id;
  };

  std::array<Token, 256> bytes{};
  std::vector<Piece> pieces;                      // in order of the file
  std::array<std::vector<size_t>, 256> by_first;  // indices of pieces by first byte, longest first
  std::map<Token, std::string> text_of;

  void index() {
    for (int byte = 0; byte < 256; ++byte) {
      text_of[bytes[byte]] = std::string(1, static_cast<char>(byte));
    }
    for (size_t i = 0; i < pieces.size(); ++i) {
      text_of[pieces[i].id] = pieces[i].text;
      by_first[static_cast<uint8_t>(pieces[i].text[0])].push_back(i);
    }
    for (auto& bucket : by_first) {
      std::stable_sort(bucket.begin(), bucket.end(), [&](size_t a, size_t b) {
        return pieces[a].text.size() > pieces[b].text.size();
      });
    }
  }

  const Piece* match(std::string_view text) const {
    for (size_t i : by_first[static_cast<uint8_t>(text[0])]) {
      if (text.starts_with(pieces[i].text)) return &pieces[i];
    }
    return nullptr;
  }
};

namespace {

/// Reads a tokenizer.json and says what in it cannot be honoured.
class FileReader {
 public:
  explicit FileReader(const fs::path& path) : path_(path) {
    std::string text;
    try {
      text = common::read_file(path);
    } catch (const common::StoreError& error) {
      throw PolicyError(std::string("load tokenizer: ") + error.what());
    }
    root_ = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (!root_.is_object()) fail("not a JSON object");
    for (const char* key : {"normalizer", "truncation", "padding"}) {
      if (root_.contains(key) && !root_[key].is_null()) {
        fail(std::string(key) + " is " + root_[key].dump() + "; allowed: null");
      }
    }
    check_byte_level("pre_tokenizer");
    check_byte_level("decoder");
    // A template would add tokens to what is encoded; ByteLevel changes offsets only.
    if (root_.contains("post_processor") && !root_["post_processor"].is_null()) {
      check_byte_level("post_processor");
    }
    const json& pre = root_["pre_tokenizer"];
    if (!is(pre, "add_prefix_space", false) || !is(pre, "use_regex", false)) {
      fail("pre_tokenizer is " + pre.dump() +
           "; allowed: ByteLevel with add_prefix_space and use_regex false");
    }
  }

  std::array<Token, 256> bytes() const {
    const json& model = member(root_, "model");
    if (!is(model, "type", "BPE")) {
      fail("the model is not of type BPE");
    }
    const json& merges = member(model, "merges");
    if (!merges.is_array() || !merges.empty()) fail("the model has merges; allowed: none");
    const json& vocab = member(model, "vocab");
    if (!vocab.is_object() || vocab.size() != 256) fail("the vocabulary is not the 256 bytes");
    const auto alphabet = byte_alphabet();
    std::array<Token, 256> ids{};
    for (int byte = 0; byte < 256; ++byte) {
      if (!vocab.contains(alphabet[byte]))
        fail("the vocabulary lacks byte " + std::to_string(byte));
      ids[byte] = token_id(vocab[alphabet[byte]], "vocabulary entry " + alphabet[byte]);
    }
    return ids;
  }

  std::vector<std::pair<std::string, Token>> added_tokens() const {
    std::vector<std::pair<std::string, Token>> added;
    if (!root_.contains("added_tokens")) return added;
    if (!root_["added_tokens"].is_array()) fail("added_tokens is not an array");
    for (const json& token : root_["added_tokens"]) {
      const json* content =
          token.is_object() && token.contains("content") ? &token["content"] : nullptr;
      if (!content || !content->is_string() || content->get_ref<const std::string&>().empty()) {
        fail("added token " + token.dump() + " has no content");
      }
      for (const char* flag : {"single_word", "lstrip", "rstrip", "normalized"}) {
        if (token.contains(flag) && token[flag] != false) {
          fail("added token " + content->dump() + ": " + flag + " is " + token[flag].dump() +
               "; allowed: false");
        }
      }
      added.emplace_back(content->get<std::string>(),
                         token_id(member(token, "id"), "added token " + content->dump()));
    }
    return added;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw PolicyError("load tokenizer " + path_.string() + ": " + what);
  }

 private:
  void check_byte_level(const char* key) const {
    if (!is(member(root_, key), "type", "ByteLevel")) {
      fail(std::string(key) + " is not of type ByteLevel");
    }
  }

  static bool is(const json& object, const char* key, const json& value) {
    return object.is_object() && object.contains(key) && object[key] == value;
  }

  const json& member(const json& object, const char* key) const {
    auto it = object.find(key);
    if (it == object.end()) fail(std::string("there is no ") + key);
    return *it;
  }

  Token token_id(const json& id, const std::string& what) const {
    if (!id.is_number_integer() || id < 0 || id > kMaxTokenId) {
      fail(what + ": id is " + id.dump() + "; allowed: 0 to " + std::to_string(kMaxTokenId));
    }
    return id.get<Token>();
  }

  fs::path path_;
  json root_;
};

}  // namespace

Tokenizer::Tokenizer() : impl_(std::make_unique<Impl>()) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::from_pieces(const std::vector<std::string>& pieces) {
  auto tokenizer = std::make_shared<Tokenizer>();
  Impl& impl = *tokenizer->impl_;
  for (int byte = 0; byte < 256; ++byte) impl.bytes[byte] = byte;
  std::set<std::string> seen;
  for (const std::string& piece : pieces) {
    if (piece.size() < 2 || !seen.insert(piece).second) continue;
    if (!is_utf8(piece)) {
      throw PolicyError("make tokenizer: piece " + std::to_string(impl.pieces.size()) +
                        " is not UTF-8");
    }
    impl.pieces.push_back({piece, static_cast<Token>(256 + impl.pieces.size())});
  }
  impl.index();
  return tokenizer;
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const fs::path& tokenizer_json) {
  const FileReader reader(tokenizer_json);
  auto tokenizer = std::make_shared<Tokenizer>();
  Impl& impl = *tokenizer->impl_;
  impl.bytes = reader.bytes();
  std::set<Token> ids(impl.bytes.begin(), impl.bytes.end());
  std::set<std::string> texts;
  for (auto& [text, id] : reader.added_tokens()) {
    if (!texts.insert(text).second)
      reader.fail("added token " + json(text).dump() + " occurs twice");
    ids.insert(id);
    impl.pieces.push_back({text, id});
  }
  if (ids.size() != 256 + impl.pieces.size()) reader.fail("two tokens have the same id");
  impl.index();
  return tokenizer;
}

std::string Tokenizer::to_json() const {
  ordered_json added = ordered_json::array();
  for (const Impl::Piece& piece : impl_->pieces) {
    added.push_back({{"id", piece.id},
                     {"content", piece.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", false}});
  }
  const auto alphabet = byte_alphabet();
  ordered_json vocab = ordered_json::object();
  for (int byte = 0; byte < 256; ++byte) vocab[alphabet[byte]] = impl_->bytes[byte];
  const ordered_json byte_level = {{"type", "ByteLevel"},
                                   {"add_prefix_space", false},
                                   {"trim_offsets", false},
                                   {"use_regex", false}};
  ordered_json root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = added;
  root["normalizer"] = nullptr;
  root["pre_tokenizer"] = byte_level;
  root["post_processor"] = nullptr;
  root["decoder"] = byte_level;
  root["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", nullptr},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", false},
                   {"byte_fallback", false},
                   {"vocab", vocab},
                   {"merges", ordered_json::array()}};
  return root.dump(2) + "\n";
}

std::vector<Token> Tokenizer::encode(std::string_view text) const {
  std::vector<Token> tokens;
  while (!text.empty()) {
    if (const Impl::Piece* piece = impl_->match(text)) {
      tokens.push_back(piece->id);
      text.remove_prefix(piece->text.size());
    } else {
      tokens.push_back(impl_->bytes[static_cast<uint8_t>(text[0])]);
      text.remove_prefix(1);
    }
  }
  return tokens;
}

std::string Tokenizer::decode(const std::vector<Token>& tokens) const {
  std::string text;
  for (Token token : tokens) {
    auto it = impl_->text_of.find(token);
    if (it == impl_->text_of.end()) {
      throw PolicyError("decode: token " + std::to_string(token) + "; allowed: 0 to " +
                        std::to_string(vocab_size() - 1));
    }
    text += it->second;
  }
  return text;
}

size_t Tokenizer::vocab_size() const {
  return static_cast<size_t>(impl_->text_of.rbegin()->first) + 1;
}

}  // namespace espalier::policy
