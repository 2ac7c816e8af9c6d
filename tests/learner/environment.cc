// The learner's tests run on one thread: tiny tensors gain nothing from more, and a second spinning
// thread costs much on a busy machine.
#include <gtest/gtest.h>

#include "policy/device.h"

namespace espalier::learner {
namespace {

class OneThread : public ::testing::Environment {
 public:
  void SetUp() override { policy::set_torch_threads(1); }
};

[[maybe_unused]] const ::testing::Environment* const kOneThread =
    ::testing::AddGlobalTestEnvironment(new OneThread);

}  // namespace
}  // namespace espalier::learner
