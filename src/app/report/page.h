// The report page put together.
#pragma once

#include <string>
#include <vector>

#include "app/report/run_data.h"

namespace espalier::app {

/// One self-contained HTML document without scripts: readable by eye, with scripts off, and in
/// print. `runs` holds at least one run; several are overlaid and compared with the first.
std::string report_page(const std::vector<RunData>& runs);

}  // namespace espalier::app
