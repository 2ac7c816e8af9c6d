// Live forks of sessions on a terminal.
#include <gmock/gmock.h>

#include "live_fork_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(LiveForkTerminal, TheShellItsScreenAndItsJobControl) {
  EnvironmentPtr parent = start();
  screen(*parent, "x=7; cd /tmp; f() { echo in-f-$x; }; echo pid-$$-$(tty)\n", "pid-");
  EnvironmentPtr child = live_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    EXPECT_THAT(screen(*each, "f; pwd; stty size; echo $-\n", "in-f-7"),
                HasSubstr("pid-2-/dev/pts/0"));
    screen(*each, "sleep 1000\n", "sleep 1000");
    screen(*each, "\x1a", "Stopped");
    screen(*each, "kill -9 %1; wait; jobs; echo over-$?\n", "over-");
    screen(*each, "sleep 1000\n", "sleep 1000");
    screen(*each, "\x03", "^C");
    screen(*each, "echo after-$?\n", "after-130");
    screen(*each, "echo pid2-$$-$BASHPID\n", "pid2-2-2");
  }
  screen(*child, "x=8; f\n", "in-f-8");
  EXPECT_THAT(screen(*parent, "echo still-$x\n", "still-7"), Not(HasSubstr("in-f-8")));
}

TEST_F(LiveForkTerminal, HalfALineAtThePrompt) {
  EnvironmentPtr parent = start();
  screen(*parent, "echo half-li", "echo half-li");
  EnvironmentPtr child = live_child(*parent);
  screen(*child, "ne-of-child\n", "\nhalf-line-of-child");
  screen(*parent, "ne-of-parent\n", "\nhalf-line-of-parent");
  screen(*child, "\x1b[A-again\n", "\nhalf-line-of-child-again");
}

TEST_F(LiveForkTerminal, HereDocumentsAndLoopsInProgress) {
  EnvironmentPtr parent = start();
  screen(*parent, "cat <<END\nfirst\nsec", "> sec");
  EnvironmentPtr child = live_child(*parent);
  screen(*child, "ond-c\nEND\n", "\nfirst\nsecond-c\n");
  screen(*parent, "ond-p\nEND\n", "\nfirst\nsecond-p\n");
  screen(*parent, "n=0; while read line; do n=$((n+1)); echo got-$n-$line; done\na\n", "got-1-a");
  child = live_child(*parent);
  screen(*child, "b\n", "got-2-b");
  screen(*child, "c\n\x04", "got-3-c");
  screen(*child, "echo ended-$n\n", "ended-3");
  screen(*parent, "B\n", "got-2-B");
}

TEST_F(LiveForkTerminal, WhatIsTypedAndNotReadYet) {
  EnvironmentPtr parent = start();
  screen(*parent, "echo begun; read -r line; echo line-is-$line\n", "\nbegun");
  screen(*parent, "half", "\nhalf");
  EnvironmentPtr child = live_child(*parent);
  screen(*child, "-c\n", "line-is-half-c");
  screen(*parent, "-p\n", "line-is-half-p");
}

TEST_F(LiveForkTerminal, LineSettings) {
  EnvironmentPtr parent = start();
  screen(*parent, "stty -echo intr ^K; read -r secret\nab", "secret");
  EnvironmentPtr child = live_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    EXPECT_THAT(screen(*each, "cd\nstty echo; echo it-is-$secret\n", "it-is-abcd"),
                HasSubstr("it-is-abcd"));
    screen(*each, "stty -a | grep -o 'intr = ^K'\n", "\nintr = ^K");
  }
}

TEST_F(LiveForkTerminal, AProgramThatIsTheSession) {
  EnvironmentPtr parent = start({"python3", "-q"});
  screen(*parent,
         "import os; data = list(range(5)); f = lambda: sum(data)\nprint('py', os.getpid())\n",
         "\npy 2");
  EnvironmentPtr child = live_child(*parent);
  screen(*child, "data.append(100); print('sum', f())\n", "\nsum 110");
  screen(*parent, "print('sum', f())\n", "\nsum 10");
  screen(*parent, "for i in range(2):\n    print('x', i)", "print('x', i)");
  EnvironmentPtr second = live_child(*parent);
  screen(*second, "\n\n", "\nx 1");
  screen(*parent, "\n\n", "\nx 1");
  TerminalView end = common::await<TerminalView>([&](auto done) {
    second->type({"exit(3)\n", std::chrono::milliseconds(5000), {}}, std::move(done));
  });
  EXPECT_TRUE(end.session_ended);
  EXPECT_EQ(end.exit_code, 3);
}

TEST_F(LiveForkTerminal, AProgramThatTookTheShellsPlace) {
  EnvironmentPtr parent = start();
  screen(*parent, "exec python3 -q\n", ">>>");
  screen(*parent, "x = {'a': [1, 2]}\n", ">>> x = ");
  EnvironmentPtr child = live_child(*parent);
  screen(*child, "x['a'].append(3); print(x)\n", "{'a': [1, 2, 3]}");
  screen(*parent, "print(x)\n", "{'a': [1, 2]}");
}

TEST_F(LiveForkTerminal, TheSandboxsRoot) {
  EnvironmentPtr parent = start({}, true);
  screen(*parent, "id -u; grep -E 'Cap(Eff|Bnd|Prm)' /proc/$$/status; echo end\n", "\nend");
  EnvironmentPtr child = live_child(*parent);
  std::string caps = "clear; grep -E 'Cap(Eff|Bnd|Prm)' /proc/$$/status; id -u; echo fin''ished\n";
  EXPECT_EQ(screen(*child, caps, "\nfinished"), screen(*parent, caps, "\nfinished"));
  screen(*child, "touch /etc/made && chown 1000 /etc/made && stat -c owner-%u /etc/made\n",
         "\nowner-1000");
}

TEST_F(LiveForkTerminal, ForksOfForks) {
  EnvironmentPtr current = start();
  for (int i = 0; i < 6; ++i) {
    screen(*current, "n=" + std::to_string(i) + "; echo at-$n\n", "at-" + std::to_string(i));
    current = live_child(*current);
  }
  screen(*current, "echo last-$n\n", "last-5");
}

}  // namespace
}  // namespace espalier::envs::testing
