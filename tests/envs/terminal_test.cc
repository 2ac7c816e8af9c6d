// Environments whose session has a terminal.
#include <gmock/gmock.h>
#include <unistd.h>

#include <algorithm>
#include <future>

#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Terminal : public SandboxTest {
 protected:
  EnvironmentPtr terminal(EnvironmentSpec spec = {}) {
    if (!spec.terminal) spec.terminal = TerminalSize{};
    return create(spec);
  }
  /// A program of the host that the sandbox shows; why the test is skipped otherwise.
  static bool has(const char* program) {
    return std::filesystem::exists(std::string("/usr/bin/") + program);
  }
};

#define NEEDS(program) \
  if (!has(program)) GTEST_SKIP() << "/usr/bin/" << program << " is not installed"

TEST_F(Terminal, ShowsAPromptAtOnceAndEchoesWhatIsTyped) {
  auto environment = terminal();
  TerminalView seen = type(*environment, "", 0);
  EXPECT_THAT(seen.screen, StartsWith("agent@sandbox:/app$\n"));
  EXPECT_EQ(seen.cursor_row, 0);
  EXPECT_EQ(seen.cursor_column, 20);
  EXPECT_THAT(seen.output, EndsWith("agent@sandbox:/app$ "));
  seen = type_until(*environment, "echo a $((40+2))", "a $((40+2))");
  EXPECT_THAT(seen.screen, StartsWith("agent@sandbox:/app$ echo a $((40+2))\n"));
  seen = type_until(*environment, "\n", "a 42\n");
  EXPECT_THAT(seen.screen, HasSubstr("\na 42\nagent@sandbox:/app$\n"));
  EXPECT_FALSE(seen.session_ended);
}

TEST_F(Terminal, IsOfTheSizeAndKindAskedFor) {
  EnvironmentSpec spec;
  spec.terminal = TerminalSize{100, 30};
  spec.variables["GREETING"] = "hello";
  auto environment = terminal(spec);
  TerminalView seen =
      type_until(*environment, "stty size; tput cols; echo $TERM $GREETING $LC_ALL; tty\n", "pts");
  EXPECT_THAT(seen.screen, HasSubstr("30 100\n100\nxterm-256color hello C.UTF-8\n/dev/pts/0\n"));
  EXPECT_EQ(std::count(seen.screen.begin(), seen.screen.end(), '\n'), 29);
}

TEST_F(Terminal, ChangesItsSize) {
  auto environment = terminal();
  type_until(*environment, "trap 'stty size' WINCH\n", "WINCH\n");
  Typing typing;
  typing.size = TerminalSize{90, 20};
  auto resize = [&] {
    return common::await<TerminalView>(
        [&](auto done) { environment->type(typing, std::move(done)); });
  };
  resize();
  TerminalView seen = type_until(*environment, "\n", "20 90\n");
  EXPECT_THAT(seen.screen, HasSubstr("20 90\n"));
  EXPECT_EQ(std::count(seen.screen.begin(), seen.screen.end(), '\n'), 19);
  EXPECT_THAT(type_until(*fork_of(*environment).child, "clear; stty size\n", "20 90\n").screen,
              HasSubstr("20 90\n"));
  typing.size = TerminalSize{0, 20};
  EXPECT_THROW(resize(), common::SandboxError);
}

TEST_F(Terminal, HasJobControl) {
  auto environment = terminal();
  type_until(*environment, "sleep 1000\n", "sleep");
  TerminalView seen = type_until(*environment, "\x1a", "Stopped");
  EXPECT_THAT(seen.screen, HasSubstr("[1]+  Stopped                 sleep 1000"));
  type_until(*environment, "fg\n", "fg\nsleep 1000");
  seen = type_until(*environment, "\x03", "^C\n");
  seen = type_until(*environment, "echo code $?; jobs; echo end\n", "\nend");
  EXPECT_THAT(seen.screen, HasSubstr("\ncode 130\nend\n"));
  seen = type_until(*environment, "sleep 1000 & jobs\n", "Running");
  EXPECT_THAT(seen.screen, HasSubstr("[1]+  Running"));
  seen = type_until(*environment, "kill %1; wait; echo over\n", "\nover");
  EXPECT_THAT(seen.screen, HasSubstr("over"));
}

TEST_F(Terminal, EditsLinesAndKeepsAHistory) {
  auto environment = terminal();
  type_until(*environment, "echo one\n", "\none\n");
  TerminalView seen = type_until(*environment, "\033[A\177\177\177two\n", "\ntwo\n");
  EXPECT_THAT(seen.screen, HasSubstr("$ echo two\ntwo\n"));
  seen = type_until(*environment, "ech\t'x'\001\005y\n", "\nxy\n");
  EXPECT_THAT(seen.screen, HasSubstr("$ echo 'x'y\nxy\n"));
}

TEST_F(Terminal, AProgramOfItsOwnCanBeTheSession) {
  NEEDS("python3");
  EnvironmentSpec spec;
  spec.session = {"python3", "-q"};
  auto environment = terminal(spec);
  TerminalView seen = type_until(*environment, "", ">>> ");
  EXPECT_THAT(seen.screen, StartsWith(">>>"));
  seen = type_until(*environment, "x = 6 * 7\nprint('x is', x)\n", "x is 42\n");
  seen = type_until(*environment, "import os; os.getpid() == os.getsid(0)\n", "True");
  seen = type_until(*environment, "raise SystemExit(3)\n", "never");
  EXPECT_TRUE(seen.session_ended);
  EXPECT_EQ(seen.exit_code, 3);
}

TEST_F(Terminal, AnUnknownSessionProgramIsRefused) {
  EnvironmentSpec spec;
  spec.session = {"no-such-program"};
  try {
    terminal(spec);
    FAIL() << "it started";
  } catch (const common::SandboxError& e) {
    EXPECT_THAT(e.what(), HasSubstr("start no-such-program on a terminal in /app"));
    EXPECT_THAT(e.what(), HasSubstr("No such file"));
  }
  spec.session = {"cat"};
  EXPECT_THROW(create(spec), common::SandboxError) << "without a terminal";
  spec.terminal = TerminalSize{0, 40};
  EXPECT_THROW(create(spec), common::SandboxError);
  EXPECT_EQ(backend_->live_environments(), 0u);
}

TEST_F(Terminal, TheEndOfTheSessionIsReported) {
  auto environment = terminal();
  TerminalView seen = type(*environment, "echo last words; exit 7\n", 30'000);
  EXPECT_TRUE(seen.session_ended);
  EXPECT_EQ(seen.exit_code, 7);
  EXPECT_THAT(seen.screen, HasSubstr("\nlast words\nexit"));
  seen = type(*environment, "more", 30'000);
  EXPECT_TRUE(seen.session_ended);
  EXPECT_THAT(seen.screen, HasSubstr("\nlast words\nexit"));
  EXPECT_EQ(as_root(*environment, "echo still here").output, "still here\n");
  auto killed = terminal();
  seen = type(*killed, "kill -9 $$\n", 30'000);
  EXPECT_TRUE(seen.session_ended);
  EXPECT_EQ(seen.exit_code, 137);
}

TEST_F(Terminal, RunIsRefusedAndTheRestWorksAsEver) {
  auto environment = terminal();
  try {
    run(*environment, "true");
    FAIL() << "run() worked";
  } catch (const common::SandboxError& e) {
    EXPECT_THAT(e.what(), HasSubstr("the session has a terminal"));
  }
  put_file(*environment, "/app/in", "from outside");
  type_until(*environment, "tr a-z A-Z <in >out; echo done\n", "\ndone");
  EXPECT_EQ(environment->read_file("/app/out", 100), "FROM OUTSIDE");
  EXPECT_EQ(exec(*environment, {"cat", "/app/out"}, false).output, "FROM OUTSIDE");
  EXPECT_EQ(
      verify_with(*environment, "grep -q FROM /app/out && echo 1 > /logs/verifier/reward.txt\n")
          .reward,
      1.0);
  auto without = create();
  EXPECT_THROW(type(*without, "x"), common::SandboxError);
}

TEST_F(Terminal, ProgramsUseTheAlternateScreen) {
  auto environment = terminal();
  TerminalView seen = type_until(
      *environment, "printf '\\033[?1049h\\033[Hfull screen'; read; tput rmcup\n", "full screen\n");
  EXPECT_THAT(seen.screen, StartsWith("full screen\n\n"));
  seen = type_until(*environment, "\n", "agent@");
  EXPECT_THAT(seen.screen, StartsWith("agent@sandbox:/app$ printf"));
}

TEST_F(Terminal, LessPagesAFile) {
  NEEDS("less");
  auto environment = terminal();
  TerminalView seen = type_until(*environment, "seq 500 >numbers; less numbers\n", "\n39\nnumbers");
  EXPECT_THAT(seen.screen, StartsWith("1\n2\n3\n"));
  seen = type_until(*environment, "G", "500\n");
  EXPECT_THAT(seen.screen, HasSubstr("\n500\n(END)"));
  seen = type_until(*environment, "q", "agent@");
  EXPECT_THAT(seen.screen, StartsWith("agent@sandbox:/app$ seq"));
}

TEST_F(Terminal, VimWritesAFile) {
  NEEDS("vim");
  auto environment = terminal();
  type_until(*environment, "vim -u NONE note\n", "\"note\" [New");
  TerminalView seen = type_until(*environment, "ihello from vim", "hello from vim\n");
  EXPECT_THAT(seen.screen, StartsWith("hello from vim\n~"));
  type_until(*environment, "\033:wq\n", "agent@sandbox:/app$ vim");
  EXPECT_EQ(environment->read_file("/app/note", 100), "hello from vim\n");
}

TEST_F(Terminal, MuchOutputIsBoundedAndLeavesOthersTheirTurn) {
  auto loud = terminal(), quiet = create();
  size_t bytes =
      type(*loud, "head -c 50000000 /dev/zero | tr '\\0' 'x'; echo; echo end\n", 10).output_bytes;
  EXPECT_EQ(output_of(*quiet, "echo fine"), "fine\n");
  TerminalView seen;
  size_t longest = 0;
  for (Deadline end = in_seconds(100); Clock::now() < end;) {
    seen = type(*loud, "", 50);
    bytes += seen.output_bytes;
    longest = std::max(longest, seen.output.size());
    if (seen.screen.find("\nend\n") != std::string::npos) break;
  }
  EXPECT_THAT(seen.screen, HasSubstr("x\nend\nagent@sandbox"));
  EXPECT_GE(bytes, 50'000'000u);
  EXPECT_LE(longest, Limits{}.output_bytes + 100);
}

TEST_F(Terminal, ManyKeysAreTakenInTheEnd) {
  auto environment = terminal();
  type_until(*environment, "stty -icanon -echo; head -c 3000000 | md5sum; stty sane\n", "head");
  type(*environment, std::string(3'000'000, 'k'), 10);
  TerminalView seen = type_until(*environment, "", "  -");
  EXPECT_THAT(seen.screen, HasSubstr("cddb4ada79f3ab3a561133d13bbefb4c"));
  EXPECT_THROW(type(*environment, std::string((16 << 20) + 1, 'k')), common::SandboxError);
  // Nobody reads: no harm, and Ctrl-C still arrives.
  type_until(*environment, "sleep 1000\n", "sleep 1000");
  type(*environment, std::string(200'000, 'k'), 50);
  environment.reset();
}

TEST_F(Terminal, SpeaksUnicode) {
  auto environment = terminal();
  TerminalView seen =
      type_until(*environment, "echo '\u00e9\u4e2de\u0301' | tee f\n", "\n\u00e9\u4e2de\u0301\n");
  EXPECT_EQ(environment->read_file("/app/f", 100), "\u00e9\u4e2de\u0301\n");
  seen = type_until(*environment, "printf 'a\\377b\\n'\n", "a\ufffdb");
  EXPECT_THAT(seen.screen, HasSubstr("\na\ufffdb\n"));
  EXPECT_THAT(seen.output, HasSubstr("a\xff"
                                     "b"));
}

TEST_F(Terminal, AnswersProgramsThatAskTheTerminal) {
  auto environment = terminal();
  TerminalView seen =
      type_until(*environment, "printf '\\033[6n'; read -rsd R x; printf '%q\\n' \"$x\"\n", "E[2");
  EXPECT_THAT(seen.screen, HasSubstr("$'\\E[2;1'"));
}

TEST_F(Terminal, TheViewIsTakenWhenItIsQuietOrAtTheLatest) {
  auto environment = terminal();
  // Without quiet: not before at_most, however quiet.
  TerminalView seen = type(*environment, "sleep 0.3; echo late\n", 1500);
  EXPECT_THAT(seen.screen, HasSubstr("\nlate\n"));
  EXPECT_GE(seen.duration_us, 1'500'000);
  // With it: at_most of an hour ends when nothing more comes, and what comes in time is waited for.
  seen =
      type(*environment, "for i in 1 2 3 4 5; do sleep 0.2; echo tick$i; done\n", 3'600'000, 1500);
  EXPECT_THAT(seen.screen, HasSubstr("\ntick5\n"));
  // The view at the latest comes although the output never ends.
  seen = type(*environment, "while :; do echo again; done\n", 100, 50);
  EXPECT_THAT(seen.output, HasSubstr("again"));
  EXPECT_FALSE(seen.session_ended);
  seen = type_until(*environment, "\x03", "^C");
}

TEST_F(Terminal, InterruptTakesTheViewNow) {
  auto environment = terminal();
  std::promise<TerminalView> promise;
  environment->type({"echo x\n", std::chrono::hours(1)},
                    [&](common::Result<TerminalView> r) { promise.set_value(r.value()); });
  environment->interrupt();
  EXPECT_FALSE(promise.get_future().get().session_ended);
}

TEST_F(Terminal, ClosingAnEnvironmentEndsWhatIsTyped) {
  auto environment = terminal();
  std::promise<common::Result<TerminalView>> promise;
  environment->type({"sleep 1000\n", std::chrono::hours(1)},
                    [&](common::Result<TerminalView> r) { promise.set_value(std::move(r)); });
  environment.reset();
  EXPECT_THROW(promise.get_future().get().get(), common::Cancelled);
}

TEST_F(Terminal, RootIsTheSessionsUserWhereAskedFor) {
  EnvironmentSpec spec;
  spec.root = true;
  auto environment = terminal(spec);
  TerminalView seen =
      type_until(*environment, "id -u; echo $HOME; touch /etc/mine && echo ok\n", "ok\n");
  if (geteuid() == 0) {
    EXPECT_THAT(seen.screen, StartsWith("root@sandbox:/app# id"));
    EXPECT_THAT(seen.screen, HasSubstr("\n0\n/root\nok\n"));
  }
  auto piped = create([] {
    EnvironmentSpec spec;
    spec.root = true;
    return spec;
  }());
  EXPECT_EQ(output_of(*piped, "touch /etc/mine && echo ok; cd; pwd"), "ok\n/root\n");
  EXPECT_NE(run(*create(), "touch /etc/mine").exit_code, 0);
}

// ---- forks and snapshots ----

/// A prompt with a history, a directory, variables, a failed command, a file, and half a line.
void make_state(Environment& environment) {
  type_until(environment, "mkdir d; cd d; x='a  b'; f() { echo \"f:$x\"; }; export Y=$'\\e['\n",
             "/app/d$");
  type_until(environment, "for i in 1 2\ndo :; done; echo written >file; clear; (exit 9)\n",
             "xit 9)");
  type_until(environment, "echo \"[$x]\" $\001\006\006\006\006\006", "$x]\" $");
}

/// Ends the half line and asks for the state.
std::string state_shown(Environment& environment) {
  std::string shown = type_until(environment, "\005?\n", "b] ").screen;
  shown +=
      type_until(environment, "f; pwd; cat file; echo ${#Y}; fc -ln 1 3; echo en'd'\n", "\nend\n")
          .screen;
  return shown;
}

TEST_F(Terminal, AForkShowsTheSameAndGoesOnTheSame) {
  auto parent = terminal();
  make_state(*parent);
  TerminalView before = type(*parent, "", 0);
  Fork fork = fork_of(*parent);
  TerminalView after = type(*parent, "", 0), child = type(*fork.child, "", 0);
  for (const TerminalView* seen : {&after, &child}) {
    EXPECT_EQ(seen->screen, before.screen);
    EXPECT_EQ(seen->cursor_row, before.cursor_row);
    EXPECT_EQ(seen->cursor_column, before.cursor_column);
  }
  std::string of_child = state_shown(*fork.child);
  EXPECT_THAT(of_child, HasSubstr("$ echo \"[$x]\" $?\n[a  b] 9\n"));
  EXPECT_THAT(of_child, HasSubstr("\nf:a  b\n/app/d\nwritten\n2\n"));
  EXPECT_THAT(of_child, HasSubstr("for i in 1 2; do :; done; echo written"));
  EXPECT_EQ(state_shown(*parent), of_child);
  type_until(*fork.child, "echo changed >file; x=changed; echo $x\n", "\nchanged");
  EXPECT_THAT(type_until(*parent, "cat file; f\n", "written\nf:").screen, HasSubstr("\nf:a  b\n"));
}

TEST_F(Terminal, ASnapshotOpensWithItsScreenAndLine) {
  auto original = terminal();
  make_state(*original);
  TerminalView before = type(*original, "", 0);
  auto opened = open(snapshot_of(*original));
  TerminalView after = type(*opened, "", 0);
  EXPECT_EQ(after.screen, before.screen);
  EXPECT_EQ(after.cursor_column, before.cursor_column);
  EXPECT_EQ(state_shown(*opened), state_shown(*original));
}

TEST_F(Terminal, WhatAForkByValueCannotCarryIsSaid) {
  auto environment = terminal();
  auto expect_refused = [&](const std::string& why) {
    try {
      snapshot_of(*environment);
      ADD_FAILURE() << "not refused: " << why;
    } catch (const common::NotForkable& e) {
      EXPECT_THAT(e.what(), HasSubstr(why));
    }
  };
  type_until(*environment, "sleep 1000\n", "sleep 1000\n");
  expect_refused("other processes run");
  type_until(*environment, "\x03", "^C\nagent@sandbox");
  type_until(*environment, "while read -p 'name? ' n; do echo \"got $n\"; done\n", "name? ");
  expect_refused("not at its prompt");
  EXPECT_THAT(type_until(*environment, "ann\n", "got ann").screen, HasSubstr("got ann"));
  type_until(*environment, "\x03", "^C\nagent@sandbox");
  type_until(*environment, "for i in 7 8\n", "\n>\n");
  expect_refused("more of a command");
  EXPECT_THAT(type_until(*environment, "do echo i$i; done\n", "i8").screen,
              HasSubstr("\ni7\ni8\n"));
  type_until(*environment, "\x12", "-i-search)");
  expect_refused("searching its history");
  type_until(*environment, "\x07 exec 7</dev/null\n", "7</dev/null\n");
  expect_refused("file descriptor 7");
  EXPECT_THAT(type_until(*environment, "exec 7<&-; echo still fine\n", "\nstill").screen,
              HasSubstr("\nstill fine\n"));
}

TEST_F(Terminal, SttyAndViModeAreCarriedByValue) {
  auto environment = terminal();
  type_until(*environment, "stty -ixany intr ^K; set -o vi; PS1='vi> '; clear; echo set\n",
             "set\nvi>");
  type(*environment, "echo", 200, 50);
  auto opened = open(snapshot_of(*environment));
  TerminalView seen = type_until(*opened, " ok; stty -a; sleep 1000\n", "werase");
  EXPECT_THAT(seen.screen, StartsWith("set\nvi> echo ok; stty -a; sleep 1000\nok\n"));
  EXPECT_THAT(seen.screen, HasSubstr("intr = ^K"));
  EXPECT_THAT(type_until(*opened, "\x0b", "^K\nvi>").screen, HasSubstr("^K\nvi>"));
}

}  // namespace
}  // namespace espalier::envs::testing
