// espalier env clean: removes what killed processes left behind.
#pragma once

namespace espalier::app {

/// Lists (and unless dry_run removes) the leftovers; the exit code.
int run_env_clean(bool dry_run, bool as_json);

}  // namespace espalier::app
