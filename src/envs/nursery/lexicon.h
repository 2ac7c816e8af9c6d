// The words the nursery draws from, and the strings its tokenizer knows whole.
#pragma once

#include <span>
#include <string_view>

namespace espalier::envs::nursery {

/// Names of files and values. No word is a substring of another word or of a key, so that `grep
/// WORD *` means one thing.
std::span<const std::string_view> words();

/// Settings of the `cfg` family.
std::span<const std::string_view> keys();

}  // namespace espalier::envs::nursery
