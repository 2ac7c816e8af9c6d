// Bytes of tensors alive, on any device. Sees torch.
#pragma once

#include <cstdint>
#include <functional>

namespace espalier::learner {

/// The most that `work` held at once of what it allocated itself, on the calling thread and in the
/// backward passes it starts.
int64_t peak_bytes(const std::function<void()>& work);

}  // namespace espalier::learner
