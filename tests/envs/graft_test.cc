// Forks of a terminal whose shell has a program in the foreground: the program is rebuilt below the
// copied shell.
#include <gmock/gmock.h>
#include <unistd.h>

#include <future>
#include <thread>

#include "live_fork_fixture.h"

namespace espalier::envs::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kInterrupt[] = "\x03", kSuspend[] = "\x1a", kEnd[] = "\x04";

class Graft : public LiveForkTerminal {
 protected:
  /// A shell with a variable to be known by again, that has started `program`, which shows `ready`.
  EnvironmentPtr start_program(const std::string& program, const std::string& ready,
                               bool root = false) {
    EnvironmentPtr environment = start({}, root);
    screen(*environment, "x=7; PS1='prompt> '\n", "\nprompt>");
    screen(*environment, program + "\n", ready);
    return environment;
  }
  /// Forks; what runs below the shell is rebuilt.
  static EnvironmentPtr rebuilt_child(Environment& environment) {
    Fork fork = fork_of(environment);
    EXPECT_EQ(fork.kind, ForkKind::proxy);
    return std::move(fork.child);
  }
  static std::string refusal(Environment& environment) {
    try {
      return to_string(fork_of(environment).kind);
    } catch (const common::NotForkable& e) {
      return e.what();
    }
  }
  static bool is_missing(const std::string& program) {
    return access(("/usr/bin/" + program).c_str(), X_OK) != 0;
  }
  /// The program has ended with this status, and the shell is as ever: itself, its history, its
  /// jobs, its line settings.
  static void expect_shell(Environment& environment, const std::string& status) {
    screen(environment, "echo status-$?\n", "\nstatus-" + status + "\n");
    screen(environment, "clear; echo shell-$$-$BASHPID-$x; jobs; history | grep -c PS1\n",
           "shell-2-2-7\n2\nprompt>");
    screen(environment, "stty -a | grep -oE '(^|.)(icanon|echo|isig|icrnl)\\b' | xargs\n",
           "\nicrnl isig icanon echo\n");
    screen(environment, "sleep 1000\n", "sleep 1000");
    screen(environment, kSuspend, "Stopped");
    screen(environment, "kill -9 %1; wait; echo over-$?\n", "\nover-");
  }
};

TEST_F(Graft, PythonWithItsVariables) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent,
         "import os, time; data = list(range(5)); print('py', os.getpid(), os.getppid())\n",
         "\npy 3 2\n");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "data.append(100); print('sum', sum(data), os.getpid(), os.getppid())\n",
         "\nsum 110 3 2\n");
  screen(*parent, "print('sum', sum(data), os.getpgrp(), os.tcgetpgrp(0), os.getsid(0))\n",
         "\nsum 10 3 3 2\n");
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "time.sleep(1000)\n", "sleep(1000)");
    screen(*each, kInterrupt, "KeyboardInterrupt");
    screen(*each, kSuspend, "Stopped");
    screen(*each, "echo shell-$?-$x\n", "\nshell-148-7\n");
    screen(*each, "fg\n", "\n/usr/bin/python3 -q\n");
    screen(*each, "print('again', len(data) // 3)\n", "\nagain ");
  }
  screen(*child, "exit(3)\n", "exit(3)\nprompt>");
  screen(*parent, "exit(len(data))\n", "exit(len(data))\nprompt>");
  expect_shell(*child, "3");
  expect_shell(*parent, "5");
}

TEST_F(Graft, ADatabaseInMemory) {
  if (is_missing("sqlite3")) GTEST_SKIP() << "sqlite3 is not installed";
  EnvironmentPtr parent = start_program("sqlite3", "\nsqlite>");
  screen(*parent, "create table t(a); insert into t values (1), (2);\n", "\nsqlite>");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "insert into t values (10); select 'sum', sum(a) from t;\n", "\nsum|13\n");
  screen(*parent, "select 'sum', sum(a) from t;\n", "\nsum|3\n");
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, ".exit\n", ".exit\nprompt>");
    expect_shell(*each, "0");
  }
}

TEST_F(Graft, APagerHalfWay) {
  if (is_missing("less")) GTEST_SKIP() << "less is not installed";
  EnvironmentPtr parent = start_program("seq 1000 > numbers; less numbers", "\n29\n");
  screen(*parent, "500g", "500\n501");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, " ", "529\n530");
  screen(*parent, "100g", "100\n101");
  screen(*child, "/777\n", "777\n778");
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, kSuspend, "Stopped");
    screen(*each, "fg\n", "\n:");
    screen(*each, "G", "\n1000\n");
    screen(*each, "q", "fg\nless numbers\nprompt>");
    expect_shell(*each, "0");
  }
}

TEST_F(Graft, AnEditorWithUnsavedText) {
  if (is_missing("vim")) GTEST_SKIP() << "vim is not installed";
  EnvironmentPtr parent = start_program("vim text", "[New]");
  screen(*parent, "ione\ntwo", "one\ntwo");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "-child\nthree", "two-child\nthree");
  screen(*parent, "-parent", "two-parent");
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "\x1b:wq\n", "vim text\nprompt>");
    expect_shell(*each, "0");
  }
  screen(*child, "clear; cat text; ls -A\n", "one\ntwo-child\nthree\ntext\nprompt>");
  screen(*parent, "clear; cat text; ls -A\n", "one\ntwo-parent\ntext\nprompt>");
}

TEST_F(Graft, ACopyOfTheInput) {
  EnvironmentPtr parent = start_program("cat", "cat\n");
  screen(*parent, "first\n", "first\nfirst\n");
  screen(*parent, "hal", "first\nhal");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "f-c\n", "half-c\nhalf-c\n");
  screen(*parent, "f-p\n", "half-p\nhalf-p\n");
  screen(*child, kInterrupt, "^C\nprompt>");
  screen(*parent, kEnd, "half-p\nhalf-p\nprompt>");
  expect_shell(*child, "130");
  expect_shell(*parent, "0");
}

TEST_F(Graft, ASubshellAndWhatComesAfterIt) {
  EnvironmentPtr parent = start_program(
      "y=(a b); (y+=(c); echo in; read v; echo sub-$v-${y[2]}; exit 9); echo rc-$?", "\nin\n");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "child\n", "\nsub-child-c\nrc-9\n");
  screen(*parent, "parent\n", "\nsub-parent-c\nrc-9\n");
  screen(*parent, "echo y-${#y[@]}\n", "\ny-2\n");
}

TEST_F(Graft, ProgramsBelowOneAnother) {
  EnvironmentPtr parent = start_program("bash --norc", "$ ");
  screen(*parent, "inner=5; PS1='inner> '\n", "\ninner>");
  screen(*parent, "/usr/bin/python3 -q\n", ">>>");
  screen(*parent, "z = 11; import os; print(os.getpid(), os.getppid())\n", "\n4 3\n");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "print('z', z, os.getpid(), os.getppid(), os.tcgetpgrp(0))\n", "\nz 11 4 3 4\n");
    screen(*each, kSuspend, "Stopped");
    screen(*each, "fg\n", "\n/usr/bin/python3 -q\n");
    screen(*each, "exit(z)\n", "inner>");
    screen(*each, "echo inner-$?-$$-$inner\n", "\ninner-11-3-5\n");
    screen(*each, "exit 6\n", "exit\nprompt>");
    expect_shell(*each, "6");
  }
}

TEST_F(Graft, MuchMemoryOfAllKinds) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent,
         "import hashlib, mmap; big = bytes(range(256)) * 500000; lots = [str(i) for i in "
         "range(100000)]; room = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE); "
         "room[5000:5003] = b'xyz'\n",
         "\n>>>");
  const std::string digest =
      "print('digest', hashlib.md5(big).hexdigest(), hashlib.md5(''.join(lots).encode())."
      "hexdigest(), room[4999:5004])\n";
  screen(*parent, digest, "\\x00xyz\\x00'");
  EnvironmentPtr child = rebuilt_child(*parent);
  EnvironmentPtr second = rebuilt_child(*parent);
  screen(*child, "lots[0] = 'changed'\n", "\n>>>");
  for (Environment* each : {parent.get(), second.get()})
    screen(*each, digest, "digest be7e0ecff6ddacbd8ae37228bcc9cd2a");
}

TEST_F(Graft, FilesAtTheirOffsetsAlsoForWriting) {
  EnvironmentPtr parent = start_program("seq 100 > in; exec 5<in; /usr/bin/python3 -q", ">>>");
  screen(*parent,
         "import os; out = open('out', 'w'); out.write('before\\n'); out.flush(); "
         "f = open('in'); f.readline(), os.read(5, 4)\n",
         "b'1\\n2\\n'");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    std::string name = each == child.get() ? "child" : "parent";
    screen(*each, "out.write('" + name + "\\n'), f.readline(), os.read(5, 4)\n",
           "(" + std::to_string(name.size() + 1) + ", '2\\n', b'3\\n4\\n')");
    screen(*each, "exit()\n", "exit()\nprompt>");
    screen(*each, "clear; cat out; read -u 5 line; echo line-$line\n",
           "before\n" + name + "\nline-5\n");
  }
}

TEST_F(Graft, SignalsAndTimers) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent,
         "import os, signal; said = lambda s, f: print('sig', s); "
         "_ = signal.signal(signal.SIGUSR1, said), signal.signal(signal.SIGALRM, said), "
         "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]), signal.alarm(3)\n",
         "\n>>>");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "os.kill(os.getpid(), signal.SIGUSR1)\n", "\nsig 10\n");
    screen(*each, "os.kill(os.getpid(), signal.SIGUSR2); signal.sigpending()\n", "SIGUSR2: 12>}\n");
    screen(*each, "\n", "sig 14\n");
    screen(*each, "os.kill(os.getpid(), 9)\n", "Killed");
    expect_shell(*each, "137");
  }
}

TEST_F(Graft, AProgramThatIsBusy) {
  EnvironmentPtr parent = start_program(
      "sh -c 'i=0; while [ $i -lt 150000 ]; do i=$((i+1)); done; echo counted-$i'", "sh -c");
  EnvironmentPtr child = rebuilt_child(*parent);
  screen(*child, "", "\ncounted-150000\n");
  screen(*parent, "", "\ncounted-150000\n");
  expect_shell(*child, "0");
  expect_shell(*parent, "0");
}

TEST_F(Graft, AJobInTheBackground) {
  EnvironmentPtr parent = start_program("sleep 1000 &", "[1] 3\n");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "clear; jobs\n", "[1]+  Running                 sleep 1000 &\n");
    screen(*each, "kill %1; wait %1; echo waited-$?\n", "\nwaited-143\n");
  }
}

TEST_F(Graft, AStoppedJob) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent, "n = 12\n", "n = 12\n>>>");
  screen(*parent, kSuspend, "[1]+  Stopped                 /usr/bin/python3 -q\nprompt>");
  screen(*parent, "y=8\n", "y=8\nprompt>");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "clear; echo still-$y; jobs; grep State /proc/3/status\n",
           "still-8\n[1]+  Stopped                 /usr/bin/python3 -q\nState:  T (stopped)\n");
    screen(*each, "fg\n", "fg\n/usr/bin/python3 -q\n");
    screen(*each, "print('n', n)\n", "\nn 12\n");
    screen(*each, "exit(n)\n", "exit(n)\nprompt>");
    expect_shell(*each, "12");
  }
}

TEST_F(Graft, AStoppedEditor) {
  if (is_missing("vim")) GTEST_SKIP() << "vim is not installed";
  EnvironmentPtr parent = start_program("vim text", "[New]");
  screen(*parent, "ione", "one");
  screen(*parent, "\x1b\x1a", "Stopped                 vim text\nprompt>");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "fg\n", "one\n~");
    screen(*each, "otwo", "one\ntwo\n~");
    screen(*each, "\x1b:wq\n", "fg\nvim text\nprompt>");
    screen(*each, "clear; cat text\n", "one\ntwo\nprompt>");
  }
}

TEST_F(Graft, Threads) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent,
         "import threading, time; said = []; go = threading.Event(); "
         "threads = [threading.Thread(target=lambda: (go.wait(), said.append("
         "threading.get_native_id()))) for _ in range(3)]; [t.start() for t in threads]\n",
         "[None, None, None]\n>>>");
  EnvironmentPtr child = rebuilt_child(*parent);
  for (Environment* each : {parent.get(), child.get()}) {
    screen(*each, "go.set(); [t.join() for t in threads]; print(sorted(said))\n", "\n[4, 5, 6]\n");
    screen(*each, "threading.active_count()\n", "\n1\n");
    screen(*each, "exit(8)\n", "exit(8)\nprompt>");
    expect_shell(*each, "8");
  }
}

TEST_F(Graft, ForksOfForks) {
  EnvironmentPtr current = start_program("/usr/bin/python3 -q", ">>>");
  screen(*current, "steps = []\n", ">>> steps = []\n>>>");
  for (int i = 0; i < 5; ++i) {
    screen(*current, "steps.append(" + std::to_string(i) + ")\n",
           "append(" + std::to_string(i) + ")\n>>>");
    current = rebuilt_child(*current);
  }
  screen(*current, "steps\n", "[0, 1, 2, 3, 4]");
  screen(*current, "exit(0)\n", "exit(0)\nprompt>");
  Fork fork = fork_of(*current);
  EXPECT_EQ(fork.kind, ForkKind::live);
  expect_shell(*fork.child, "0");
}

TEST_F(Graft, NothingIsLeftOfIt) {
  for (int i = 0; i < 6; ++i) {
    EnvironmentPtr parent = start_program("(echo up; exec sleep 98765)", "\nup\n");
    EnvironmentPtr child = rebuilt_child(*parent);
    EnvironmentPtr second = rebuilt_child(*parent);
    if (i % 2) parent.reset();
    screen(*second, kInterrupt, "^C\nprompt>");
    // Closed in the middle of another.
    auto forked = std::make_shared<std::promise<void>>();
    auto future = forked->get_future();
    child->fork([forked](common::Result<Fork>) { forked->set_value(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(3 * i));
    child.reset();
    future.wait();
  }
  EXPECT_TRUE(gone_from_host("sleep 98765"));
}

TEST_F(Graft, ConfinedAsBefore) {
  for (bool root : {false, true}) {
    EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>", root);
    screen(*parent,
           "import os, re; show = lambda: [l for l in open('/proc/self/status') if "
           "re.match('Uid|Gid|Groups|Cap|NoNew|Seccomp|Sig|Shd|Umask|Name', l)] + os.listdir("
           "'/proc/self/fd') + [os.readlink('/proc/self/exe'), os.nice(0), "
           "open('/proc/self/cmdline').read(), re.sub('[0-9]+', '', "
           "open('/proc/self/limits').read())]\n",
           "\n>>>");
    screen(*parent, "before = show()\n", "show()\n>>>");
    EnvironmentPtr child = rebuilt_child(*parent);
    for (Environment* each : {parent.get(), child.get()}) {
      screen(*each,
             "'same' if show() == before else [(a, b) for a, b in zip(show(), before) if a != b]\n",
             "\n'same'\n");
      screen(*each, "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.chroot('/')\n",
             root ? "\n>>>" : "PermissionError");
    }
  }
}

TEST_F(Graft, WhatIsRefusedIsUnharmed) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent, "import socket, os; x = 5\n", "x = 5\n>>>");
  screen(*parent, "s = socket.socketpair()\n", "()\n>>>");
  EXPECT_THAT(refusal(*parent), HasSubstr("a socket"));
  screen(*parent, "s = None; r = os.pipe()\n", "pipe()\n>>>");
  EXPECT_THAT(refusal(*parent), HasSubstr("a pipe"));
  screen(*parent, "os.closerange(3, 9); r = os.memfd_create('m')\n", "('m')\n>>>");
  EXPECT_THAT(refusal(*parent), HasSubstr("memfd"));
  screen(*parent, kSuspend, "Stopped                 /usr/bin/python3 -q\nprompt>");
  EXPECT_THAT(refusal(*parent), HasSubstr("memfd"));
  screen(*parent, "clear; jobs\n", "[1]+  Stopped                 /usr/bin/python3 -q\nprompt>");
  screen(*parent, "fg\n", "fg\n/usr/bin/python3 -q\n");
  screen(*parent, "print('un', 'harmed', x)\n", "un harmed 5");
}

TEST_F(Graft, TwoProgramsBelowOneAreRefused) {
  EnvironmentPtr parent = start_program("sh -c 'sleep 1000 & cat'", "sh -c");
  screen(*parent, "here\n", "here\nhere\n");
  EXPECT_THAT(refusal(*parent), HasSubstr("two programs"));
  screen(*parent, "and here\n", "and here\nand here\n");
  screen(*parent, kInterrupt, "^C\nprompt>");
  expect_shell(*parent, "130");
}

TEST_F(Graft, SharedMemoryIsRefused) {
  EnvironmentPtr parent = start_program("/usr/bin/python3 -q", ">>>");
  screen(*parent, "import mmap; m = mmap.mmap(-1, 4096); m[0] = 65\n", "= 65\n>>>");
  EXPECT_THAT(refusal(*parent), HasSubstr("shares"));
  screen(*parent, "m[0]\n", "\n65\n");
}

}  // namespace
}  // namespace espalier::envs::testing
