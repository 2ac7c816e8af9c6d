// What this machine is, for `doctor` and as the head of every benchmark's figures.
#pragma once

#include <nlohmann/json.hpp>

namespace espalier::app {

/// CPU model, cores, memory, kernel, LibTorch, device, Espalier's version.
nlohmann::json describe_machine();

}  // namespace espalier::app
