// What the tests of live forks of terminals share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {

class LiveForkTerminal : public SandboxTest {
 protected:
  void SetUp() override {
    SandboxTest::SetUp();
    if (!backend_) return;
    if (fork_of(*create()).kind != ForkKind::live)
      GTEST_SKIP() << "this machine does not let sessions be copied";
  }

  EnvironmentPtr start(std::vector<std::string> session = {}, bool root = false) {
    EnvironmentSpec spec;
    spec.terminal = TerminalSize{100, 30};
    spec.session = std::move(session);
    spec.root = root;
    return create(spec);
  }
  /// Types and waits until the screen shows `wanted`.
  static std::string screen(Environment& environment, const std::string& keys,
                            const std::string& wanted) {
    std::string seen;
    for (int i = 0; i < 200; ++i) {
      TerminalView view = common::await<TerminalView>([&](auto done) {
        environment.type(
            {i ? "" : keys, std::chrono::milliseconds(50), std::chrono::milliseconds(15)},
            std::move(done));
      });
      seen = view.screen;
      if (seen.find(wanted) != std::string::npos) return seen;
    }
    ADD_FAILURE() << "the screen does not come to show '" << wanted << "':\n" << seen;
    return seen;
  }
  static EnvironmentPtr live_child(Environment& environment) {
    Fork fork = fork_of(environment);
    EXPECT_EQ(fork.kind, ForkKind::live);
    return std::move(fork.child);
  }
};

}  // namespace espalier::envs::testing
