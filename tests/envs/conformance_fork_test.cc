// What every environment promises of forks and snapshots.
#include "conformance.h"

namespace espalier::envs::testing {
namespace {

TEST_P(Conformance, ForkCarriesShellAndFilesAndBothGoOnIndependently) {
  run(*environment_,
      "mkdir d && cd d && echo one > f; x=1; export Y='a b'; arr=(p 'q r'); declare -A "
      "m=([k]=\"v\nw\");"
      "declare -r fixed=5; g() { echo g:$x; }; export -f g; alias ll='echo listed'; shopt -s "
      "extglob; set -u;"
      "set -- first 'sec ond'; trap 'echo caught' USR1; umask 077; cd ..; cd d; (exit 9)");
  Fork fork = fork_of(*environment_);
  const std::string probe =
      "echo $? $x \"$Y\" \"${arr[1]}\" \"${m[k]}\" $fixed \"$2\" $OLDPWD; g; ll; bash -c g; pwd; "
      "cat f;"
      "umask; trap -p USR1; shopt extglob; echo ${unset_one} ";
  const std::string expected =
      "9 1 a b q r v\nw 5 sec ond /app\ng:1\nlisted\ng:\n/app/d\none\n0077\ntrap -- 'echo caught' "
      "SIGUSR1\n"
      "extglob        \ton\nbash: unset_one: unbound variable\n";
  EXPECT_EQ(output_of(*environment_, probe), expected);
  EXPECT_EQ(output_of(*fork.child, probe), expected);

  run(*environment_, "echo parent > f; x=2; rm -f ../gone; cd /");
  run(*fork.child, "echo child > f; x=3; touch new");
  EXPECT_EQ(output_of(*environment_, "echo $x; cat /app/d/f; ls /app/d"), "2\nparent\nf\n");
  EXPECT_EQ(output_of(*fork.child, "echo $x; cat f; ls"), "3\nchild\nf\nnew\n");
}

TEST_P(Conformance, ForksOfForksSeeDeletionsAndReplacements) {
  run(*environment_, "mkdir d; touch d/a d/b; echo 0 > n");
  std::vector<EnvironmentPtr> children;
  Environment* current = environment_.get();
  for (int depth = 1; depth <= 5; ++depth) {
    children.push_back(fork_of(*current).child);
    current = children.back().get();
    run(*current, "echo " + std::to_string(depth) + " >> n; rm -rf d; mkdir d; touch d/only" +
                      std::to_string(depth));
  }
  EXPECT_EQ(output_of(*current, "cat n; ls d"), "0\n1\n2\n3\n4\n5\nonly5\n");
  EXPECT_EQ(output_of(*children[1], "cat n; ls d"), "0\n1\n2\nonly2\n");
  EXPECT_EQ(output_of(*environment_, "cat n; ls d"), "0\na\nb\n");
  // A parent may end before its children.
  environment_.reset();
  children.erase(children.begin(), children.end() - 1);
  EXPECT_EQ(output_of(*children.back(), "tail -1 n"), "5\n");
}

TEST_P(Conformance, AForkWithoutWritesLeavesTheParentItself) {
  run(*environment_, "x=1");
  std::string pid = output_of(*environment_, "echo $BASHPID $x");
  Fork fork = fork_of(*environment_);
  EXPECT_EQ(output_of(*environment_, "echo $BASHPID $x"), pid);
  EXPECT_EQ(output_of(*fork.child, "echo $x; x=2; touch f"), "1\n");
  EXPECT_EQ(output_of(*environment_, "echo $x; ls"), "1\n");
}

TEST_P(Conformance, WhatForkCannotCarryIsRefusedWithoutHarm) {
  run(*environment_, "sleep 1000 & echo kept > f");
  std::string reason;
  if (EnvironmentPtr child = fork_or_refusal(*environment_, &reason)) {
    EXPECT_EQ(output_of(*child, "jobs -r | wc -l; kill %1"), "1\n") << "carried, then wholly";
  } else {
    EXPECT_NE(reason, "");
  }
  EXPECT_EQ(output_of(*environment_, "cat f; jobs -r | wc -l; kill %1"), "kept\n1\n");
}

TEST_P(Conformance, AFileOpenForWritingIsCarriedOrRefused) {
  run(*environment_, "exec 7>g; echo before >&7");
  std::string reason;
  EnvironmentPtr child = fork_or_refusal(*environment_, &reason);
  EXPECT_EQ(output_of(*environment_, "echo parent >&7; exec 7>&-; cat g"), "before\nparent\n");
  if (child) {
    EXPECT_EQ(output_of(*child, "echo child >&7; exec 7>&-; cat g"), "before\nchild\n");
  } else {
    EXPECT_NE(reason, "");
    EXPECT_NO_THROW(fork_of(*environment_)) << "the file is closed now";
  }
}

TEST_P(Conformance, AShellThatHasEndedCannotBeForked) {
  run(*environment_, "exit");
  EXPECT_THROW(fork_of(*environment_), common::NotForkable);
}

TEST_P(Conformance, ASnapshotOpensInAnotherBackend) {
  std::filesystem::path files = directory_.path() / "files";
  write_host_file(files / "given", "given\n", 0640);
  write_host_file(files / "removed", "removed\n", 0644);
  EnvironmentSpec spec;
  spec.files = files;
  auto environment = create(spec);
  run(*environment,
      "x='1 2'; echo made > made; rm removed; mkdir -p a/b; ln -s ../made a/link; chmod 4710 "
      "given");
  fork_of(*environment);
  run(*environment, "echo more > a/b/more; rm -rf a/b; mkdir a/b; cd a; (exit 3)");
  SnapshotId id = snapshot_of(*environment);
  EXPECT_EQ(snapshot_of(*environment), id) << "the same state has the same name";
  EXPECT_EQ(output_of(*environment, "pwd"), "/app/a\n") << "the environment goes on";
  environment.reset();
  std::filesystem::remove_all(files);
  replace_backend();
  auto opened = open(id);
  EXPECT_EQ(
      output_of(*opened, "echo $? $x; pwd; cat link; ls -A b /app; stat -c '%a %u' /app/given"),
      "3 1 2\n/app/a\nmade\n/app:\na\ngiven\nmade\n\nb:\n4710 1000\n");
  EXPECT_EQ(snapshot_of(*open(id)), id);
  EXPECT_EQ(output_of(*fork_of(*opened).child, "pwd; cat ../given"), "/app/a\ngiven\n");
  EXPECT_THROW(open(SnapshotId{std::string(64, '0')}), common::StoreError);
  EXPECT_THROW(open(SnapshotId{"../x"}), common::StoreError);
}

TEST_P(Conformance, ADamagedSnapshotIsRefused) {
  run(*environment_, "echo text > f");
  SnapshotId id = snapshot_of(*environment_);
  auto place = directory_.path() / "snapshots" / (id.hex + ".json");
  std::string meta = common::read_file(place);
  meta.replace(meta.find("/app"), 4, "/tmp");
  common::write_file_atomically(place, meta);
  EXPECT_THROW(open(id), common::StoreError);
}

}  // namespace
}  // namespace espalier::envs::testing
