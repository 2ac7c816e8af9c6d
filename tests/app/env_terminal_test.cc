// espalier env shell --terminal, as a person at a terminal has it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

#include <chrono>
#include <cstring>
#include <string>

#include "app/process.h"
#include "common/error.h"

namespace espalier {
namespace {

using ::testing::HasSubstr;

constexpr int kTimeoutS = 60;

/// The program on a terminal of its own. Killed and reaped with the object.
class AtTerminal {
 public:
  AtTerminal(const std::vector<std::string>& argv, int columns, int rows) {
    winsize size{};
    size.ws_col = static_cast<unsigned short>(columns);
    size.ws_row = static_cast<unsigned short>(rows);
    if (openpty(&master_, &slave_, nullptr, nullptr, &size)) throw std::runtime_error("openpty");
    tcgetattr(slave_, &before_);
    pid_ = fork();
    if (pid_ != 0) return;
    std::vector<char*> arguments;
    for (const std::string& argument : argv)
      arguments.push_back(const_cast<char*>(argument.c_str()));
    arguments.push_back(nullptr);
    close(master_);
    login_tty(slave_);
    execv(arguments[0], arguments.data());
    _exit(127);
  }
  ~AtTerminal() {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(master_);
    close(slave_);
  }
  AtTerminal(const AtTerminal&) = delete;
  AtTerminal& operator=(const AtTerminal&) = delete;

  void type(const std::string& keys) {
    ASSERT_EQ(write(master_, keys.data(), keys.size()), ssize_t(keys.size()));
  }
  void resize(int columns, int rows) {
    winsize size{};
    size.ws_col = static_cast<unsigned short>(columns);
    size.ws_row = static_cast<unsigned short>(rows);
    ioctl(master_, TIOCSWINSZ, &size);
  }
  /// Reads until `text` has come since the last call; false after a minute or at the end.
  bool sees(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(kTimeoutS);
    for (;;) {
      if (size_t at = unread_.find(text); at != std::string::npos) {
        unread_.erase(0, at + text.size());
        return true;
      }
      if (std::chrono::steady_clock::now() > end || !read_some()) return false;
    }
  }
  /// The program's exit code, once it has ended of itself; 128 + signal.
  int exit_code() {
    int status = 0;
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(kTimeoutS);
    while (waitpid(pid_, &status, WNOHANG) == 0) {
      read_some();
      if (std::chrono::steady_clock::now() > end) return -1;
    }
    pid_ = -1;
    while (read_some()) {
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool is_raw() const {
    termios now{};
    tcgetattr(slave_, &now);
    return !(now.c_lflag & (ICANON | ECHO | ISIG));
  }
  bool is_as_before() const {
    termios now{};
    tcgetattr(slave_, &now);
    return now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag &&
           now.c_cflag == before_.c_cflag && now.c_lflag == before_.c_lflag &&
           std::memcmp(now.c_cc, before_.c_cc, sizeof now.c_cc) == 0;
  }
  const std::string& unread() const { return unread_; }

 private:
  /// What comes within a moment; false when nothing did.
  bool read_some() {
    constexpr int kMomentMs = 200;
    pollfd wait{master_, POLLIN, 0};
    if (poll(&wait, 1, pid_ > 0 ? kMomentMs : 0) <= 0) return pid_ > 0;
    char buffer[4096];
    const ssize_t n = read(master_, buffer, sizeof buffer);
    if (n > 0) unread_.append(buffer, static_cast<size_t>(n));
    return n > 0;
  }

  int master_ = -1, slave_ = -1;
  pid_t pid_ = -1;
  termios before_{};
  std::string unread_;
};

std::vector<std::string> terminal_shell(const std::string& task) {
  return test::espalier({"env", "shell", task, "--terminal"});
}

class EnvTerminal : public ::testing::Test {
 protected:
  void SetUp() override {
    const test::Finished probe = test::run(test::espalier({"env", "exec", "--", "true"}));
    if (probe.exit_code == common::kExitUnsupported) GTEST_SKIP() << probe.output;
    ASSERT_EQ(probe.exit_code, 0) << probe.output;
  }
};

TEST_F(EnvTerminal, KeysSizeAndExitCode) {
  AtTerminal person(terminal_shell("nursery:maze/17/d2"), 100, 30);
  ASSERT_TRUE(person.sees("Ctrl-]")) << person.unread();
  ASSERT_TRUE(person.sees("$ ")) << person.unread();
  EXPECT_TRUE(person.is_raw());
  person.type("PATH=$PATH:/usr/bin; stty size; tty\r");
  EXPECT_TRUE(person.sees("30 100\r\n/dev/pts/")) << person.unread();
  person.resize(132, 50);
  person.type("stty size\r");
  EXPECT_TRUE(person.sees("50 132")) << person.unread();
  // Ctrl-C is the session's, not this program's.
  person.type("sleep 1000\r");
  EXPECT_TRUE(person.sees("sleep 1000"));
  person.type("\x03");
  EXPECT_TRUE(person.sees("^C"));
  person.type("echo code $?\r");
  EXPECT_TRUE(person.sees("code 130")) << person.unread();
  person.type("exit\r");
  EXPECT_TRUE(person.sees("reward 0")) << person.unread();
  EXPECT_EQ(person.exit_code(), common::kExitOk);
  EXPECT_TRUE(person.is_as_before());
}

TEST_F(EnvTerminal, LeavingInTheMiddleAsksTheVerifier) {
  AtTerminal person(terminal_shell("nursery:maze/17/d2"), 80, 24);
  ASSERT_TRUE(person.sees("$ ")) << person.unread();
  person.type("cat\r");
  ASSERT_TRUE(person.sees("cat"));
  person.type("\x1d");
  EXPECT_TRUE(person.sees("reward 0")) << person.unread();
  EXPECT_EQ(person.exit_code(), common::kExitOk);
  EXPECT_TRUE(person.is_as_before());
}

TEST_F(EnvTerminal, NeedsATerminal) {
  const test::Finished shell = test::run(terminal_shell("nursery:maze/17/d2"));
  EXPECT_EQ(shell.exit_code, common::kExitUsage);
  EXPECT_THAT(shell.output, HasSubstr("standard input is no terminal"));
}

}  // namespace
}  // namespace espalier
