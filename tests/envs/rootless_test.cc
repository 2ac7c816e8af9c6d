// The same suites as an unprivileged user.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

TEST(Rootless, ConformanceAndIsolationHoldForAnUnprivilegedUser) {
  if (geteuid() != 0) GTEST_SKIP() << "these tests run unprivileged already";
  constexpr uid_t kUser = 54321;
  int program = open("/proc/self/exe", O_RDONLY);
  ASSERT_GE(program, 0);
  common::TempDir home("espalier-rootless");
  ASSERT_EQ(chown(home.path().c_str(), kUser, kUser), 0);
  int out[2];
  ASSERT_EQ(pipe(out), 0);
  pid_t child = fork();
  if (child == 0) {
    dup2(out[1], 1);
    dup2(out[1], 2);
    std::string temporary = "TMPDIR=" + home.path().string();
    char name[] = "test_envs",
         filter[] = "--gtest_filter=*Conformance*/sandbox:Isolation.*:SystemCalls.*";
    char* argv[] = {name, filter, nullptr};
    char* env[] = {temporary.data(), nullptr};
    if (chdir("/") || setgid(kUser) || setuid(kUser)) _exit(99);
    fexecve(program, argv, env);
    _exit(98);
  }
  close(out[1]);
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(out[0], buffer, sizeof buffer)) > 0;) text.append(buffer, size_t(n));
  close(out[0]);
  close(program);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) >= 98)
    GTEST_SKIP() << "cannot become uid " << kUser << " here";
  if (text.find("no sandboxes on this machine") != std::string::npos)
    GTEST_SKIP() << "unprivileged user namespaces are not allowed here:\n" << text;
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << text;
}

}  // namespace
}  // namespace espalier::envs::testing
