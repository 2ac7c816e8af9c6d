// What of an interrupted step an earlier process had finished.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "tree/journal.h"
#include "tree/ledger.h"
#include "tree/trace_tree.h"

namespace espalier::app {

/// Sealed trees of `step`, begun at or after `from` in the journal (which is read from there on),
/// that were rolled out with the weights of its beginning: not those of a
/// run that had got further, was killed, and did earlier steps again. Without leaves that were cut
/// short. Errors: StoreError.
std::vector<tree::Tree> recovered_trees(const std::filesystem::path& journal, uint64_t step,
                                        tree::JournalPosition from = {});

/// What a stored tree cost, as far as it can be read off the tree (not: prefill, seconds, retries).
tree::Spend spend_of(const tree::Tree& tree);

/// Whether an episode of the tree was cut short by a stop or by the budget.
bool has_cancelled_leaf(const tree::Tree& tree);

}  // namespace espalier::app
