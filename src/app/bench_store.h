// espalier bench store: figures of journal and store.
#pragma once

#include <nlohmann/json.hpp>

#include "tree/bench/store_bench.h"

namespace espalier::app {

/// In a scratch directory below `bench.directory` (empty: the system's temporary one), which is
/// removed. Errors: StoreError; Cancelled on Ctrl-C.
nlohmann::json measure_store(tree::StoreBench bench);

}  // namespace espalier::app
