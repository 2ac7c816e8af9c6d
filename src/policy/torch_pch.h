// Precompiled header of the units that see torch.
#pragma once

#include <torch/types.h>
