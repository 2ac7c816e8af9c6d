// The isolation tests' fixture: what a sandbox must not allow is tried from inside, as the agent
// and as the sandbox's root; afterwards the backend goes on and the host is as it was.
#pragma once

#include <gmock/gmock.h>

#include <string>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {

class Isolation : public SandboxTest {
 protected:
  void SetUp() override {
    SandboxTest::SetUp();
    if (backend_) environment_ = create();
  }
  void TearDown() override {
    // Whatever was tried, a new environment works.
    if (backend_) {
      EXPECT_EQ(output_of(*create(), "echo works"), "works\n");
    }
    environment_.reset();
  }
  bool has(const std::string& program) {
    return run(*environment_, "command -v " + program + " >/dev/null").exit_code == 0;
  }
  /// Runs a script both as the agent and as the sandbox's root; both outputs.
  std::string both(const std::string& script) {
    return run(*environment_, script).output + as_root(*environment_, script).output;
  }
  /// What the script writes with `say NAME` where something forbidden went through: each line of
  /// the script is an attempt, its name the first word.
  std::string allowed(const std::vector<std::pair<std::string, std::string>>& attempts) {
    std::string script;
    for (const auto& [name, attempt] : attempts)
      script += "( " + attempt + " ) >/dev/null 2>&1 </dev/null && echo '" + name + "'\n";
    return both(script);
  }

  EnvironmentPtr environment_;
};

}  // namespace espalier::envs::testing
