// Ctrl-C: the first asks the run to stop in an orderly way, the second ends the process at once.
#pragma once

namespace espalier::common {

/// From now on the first SIGINT or SIGTERM only sets the flag below; a second one ends the process
/// with exit code 130 without running anything else (journals survive that). Call once, from main,
/// before threads start. Errors: Error.
void install_stop_handlers();

/// Whether the run was asked to stop. Any thread; cheap enough for inner loops.
bool stop_requested();

/// Asks the run to stop, as a first Ctrl-C does. Any thread; async-signal-safe.
void request_stop();

/// A descriptor that becomes readable (and stays so) when the run is asked to stop, for epoll and
/// poll; -1 before install_stop_handlers(). Owned by this file: never read or close it.
int stop_event_fd();

}  // namespace espalier::common
