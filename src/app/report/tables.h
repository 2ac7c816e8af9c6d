// The tables of a report.
#pragma once

#include <string>
#include <vector>

#include "app/report/run_data.h"

namespace espalier::app {

/// Success by family before and after, one table a run. Empty without evaluations.
std::string family_tables(const std::vector<RunData>& runs);

/// Every unit of the budget, runs side by side with ratios to the first. The latest metrics line
/// stands in for the summary of an unfinished run.
std::string ledger_table(const std::vector<RunData>& runs);

/// Wall-clock seconds by phase.
std::string timing_tables(const std::vector<RunData>& runs);

/// How the stored episodes ended.
std::string outcome_tables(const std::vector<RunData>& runs);

}  // namespace espalier::app
