// The charts of a report: learning curves and small multiples over one or several runs.
#pragma once

#include <string>
#include <vector>

#include "app/report/run_data.h"

namespace espalier::app {

/// Success on held-out tasks with error bars, and mean training reward (raw and smoothed), over
/// generated tokens where every run recorded them, else over steps.
std::string learning_curves(const std::vector<RunData>& runs);

/// One small chart for every known training metric that a run recorded, over steps.
std::string small_multiples(const std::vector<RunData>& runs);

}  // namespace espalier::app
