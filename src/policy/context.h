// Contexts: immutable token prefixes shared by reference between branches.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace espalier::policy {

using Token = int32_t;

class Context;
using ContextPtr = std::shared_ptr<const Context>;

/// What an engine keeps with a context: the KV entries of its own span. Owned by the context, so
/// that a prefix lives exactly as long as a branch needs it; salted by the policy version that
/// computed it.
struct ContextCache {
  virtual ~ContextCache() = default;
  uint64_t policy_version = 0;
};

/// One span of tokens behind a parent context. A fork costs a reference count: children extend the
/// same parent. Thread contract: the tokens are immutable; `cache` is touched by the engine thread
/// alone.
class Context {
 public:
  Context(ContextPtr parent, std::vector<Token> tokens)
      : parent_(std::move(parent)),
        tokens_(std::move(tokens)),
        length_((parent_ ? parent_->length() : 0) + tokens_.size()) {}

  static ContextPtr root(std::vector<Token> tokens) {
    return std::make_shared<const Context>(nullptr, std::move(tokens));
  }
  static ContextPtr extend(ContextPtr parent, std::vector<Token> tokens) {
    return std::make_shared<const Context>(std::move(parent), std::move(tokens));
  }

  const ContextPtr& parent() const { return parent_; }
  const std::vector<Token>& tokens() const { return tokens_; }  // of this span
  size_t length() const { return length_; }                     // of the whole prefix

  mutable std::shared_ptr<ContextCache> cache;

 private:
  ContextPtr parent_;
  std::vector<Token> tokens_;
  size_t length_;
};

}  // namespace espalier::policy
