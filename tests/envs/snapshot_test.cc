// Durable states of sandboxes: what comes back, where, and what does not depend on how it came to
// be.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "envs/sandbox/snapshot_store.h"
#include "pack_builder.h"
#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

namespace fs = std::filesystem;
using sandbox::SnapshotManifest;
using sandbox::SnapshotStore;
using sandbox::SnapshotWriter;
using sandbox::testing::PackBuilder;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class SnapshotTest : public SandboxTest, public ::testing::WithParamInterface<bool> {
 protected:
  SandboxOptions options() const override {
    SandboxOptions options;
    options.force_disk_upper = GetParam();
    return options;
  }
  fs::path snapshots() const { return directory_.path() / "snapshots"; }
  SnapshotStore store() const { return SnapshotStore(snapshots()); }

  /// The state in a backend that has seen nothing of how it was made.
  EnvironmentPtr reopen(EnvironmentPtr environment) {
    SnapshotId id = snapshot_of(*environment);
    environment.reset();
    backend_.reset();
    SandboxOptions options = this->options();
    options.snapshot_dir = snapshots();
    backend_ = make_sandbox_backend(options);
    EnvironmentPtr opened = open(id);
    EXPECT_EQ(snapshot_of(*opened).hex, id.hex) << "what was opened is what was written";
    store().verify(id);
    return opened;
  }
  /// The same question before and after; the answer is no empty one.
  void survives(EnvironmentPtr environment, const std::string& question,
                const std::string& part_of_answer) {
    std::string before = as_root(*environment, "cd /app; " + question).output;
    EXPECT_THAT(before, HasSubstr(part_of_answer)) << "before";
    EnvironmentPtr opened = reopen(std::move(environment));
    EXPECT_EQ(as_root(*opened, "cd /app; " + question).output, before) << "after";
  }
  bool has(Environment& environment, const std::string& program) {
    return as_root(environment, "command -v " + program).exit_code == 0;
  }
  size_t layer_files() const {
    auto files = fs::directory_iterator(snapshots() / "layers");
    return size_t(std::distance(begin(files), end(files)));
  }
};

TEST_P(SnapshotTest, ModesAndOwners) {
  auto environment = create();
  ASSERT_EQ(as_root(*environment,
                    "cd /app; for m in 000 4711 2755 1777 640; do mkdir d$m; echo $m > f$m;"
                    "chmod $m d$m f$m; done; mkfifo -m 620 p; chmod 700 /app")
                .output,
            "");
  // Rootless, one user is all there is.
  if (geteuid() == 0) as_root(*environment, "cd /app; chown 7:8 f640 d640; chown -h 1000:0 f000 p");
  survives(std::move(environment), "stat -c '%n %F %a %u:%g' . * | sort; cat f000",
           "f4711 regular file 4711");
}

TEST_P(SnapshotTest, TimesOfFiles) {
  auto environment = create();
  run(*environment,
      "touch -d '2001-02-03 04:05:06.789 UTC' f; ln -s f s;"
      "touch -h -d '2002-02-03 UTC' s");
  survives(std::move(environment), "stat -c '%n %y' f s", "2001-02-03 04:05:06.789");
}

TEST_P(SnapshotTest, ExtendedAttributes) {
  auto environment = create();
  if (!has(*environment, "python3")) GTEST_SKIP() << "no python3 here to set attributes with";
  Observation set = as_root(*environment,
                            "cd /app; touch f; mkdir d; python3 -c '\n"
                            "import os\n"
                            "os.setxattr(\"f\", \"user.one\", b\"1\")\n"
                            "os.setxattr(\"f\", \"user.bytes\", bytes(range(256)))\n"
                            "os.setxattr(\"d\", \"user.empty\", b\"\")'");
  if (set.output.find("not supported") != std::string::npos)
    GTEST_SKIP() << "the file system of this machine's sandboxes has no user attributes";
  ASSERT_EQ(set.output, "");
  fork_of(*environment);
  as_root(*environment, "cd /app; python3 -c 'import os; os.removexattr(\"f\", \"user.one\")'");
  survives(std::move(environment),
           "python3 -c 'import os\n"
           "for p in \"f\", \"d\": print({n: os.getxattr(p, n) for n in os.listxattr(p)})'",
           "{'user.bytes': b'\\x00\\x01\\x02");
}

TEST_P(SnapshotTest, AccessListsAndFileCapabilities) {
  if (geteuid() != 0) GTEST_SKIP() << "rootless sandboxes have one user: nobody to name in a list";
  auto environment = create();
  if (!has(*environment, "python3")) GTEST_SKIP() << "no python3 here to set attributes with";
  Observation set = as_root(
      *environment,
      "cd /app; touch a c; python3 -c '\n"
      "import os, struct\n"
      "entry = lambda tag, perm, who=0xffffffff: struct.pack(\"<HHI\", tag, perm, who)\n"
      "os.setxattr(\"a\", \"system.posix_acl_access\", struct.pack(\"<I\", 2) + entry(1, 6) +\n"
      "            entry(2, 4, 1000) + entry(4, 4) + entry(16, 4) + entry(32, 0))\n"
      "os.setxattr(\"c\", \"security.capability\", struct.pack(\"<IIIII\", 0x02000001, 1024, 0,\n"
      "            0, 0))'");
  if (!set.output.empty()) GTEST_SKIP() << "this machine's sandboxes cannot: " << set.output;
  survives(std::move(environment),
           "python3 -c 'import os\n"
           "print(os.getxattr(\"a\", \"system.posix_acl_access\"),"
           "os.getxattr(\"c\", \"security.capability\"))'",
           "\\xe8\\x03");
}

TEST_P(SnapshotTest, HardLinks) {
  auto environment = create();
  run(*environment, "mkdir d; echo one > d/a; ln d/a b; ln d/a c; echo one > alone; ln -s gone s");
  auto opened = reopen(std::move(environment));
  EXPECT_EQ(output_of(*opened,
                      "stat -c %h d/a b c alone; [ b -ef d/a ] && [ c -ef b ] && echo same;"
                      "[ b -ef alone ] || echo another; cat b; readlink s"),
            "3\n3\n3\n1\nsame\nanother\none\ngone\n");
}

TEST_P(SnapshotTest, AHardLinkThatWasBrokenOffByAFork) {
  auto environment = create();
  run(*environment, "echo one > a; ln a b; ln a c");
  fork_of(*environment);
  run(*environment, "echo two > a");
  survives(std::move(environment), "head a b c", "two");
}

TEST_P(SnapshotTest, Symlinks) {
  auto environment = create();
  run(*environment,
      "ln -s /nowhere dangling; ln -s . self; ln -s \"$(printf 'x%.0s' {1..4000})\" long;"
      "ln -s $'with\\nnewline \\xff' $'odd\\xff name'");
  survives(std::move(environment), "for f in *; do readlink \"$f\" | od -c; done | cksum; ls -b",
           "odd\\377\\ name");
}

TEST_P(SnapshotTest, WhatWasRemovedStaysRemoved) {
  auto environment = create();
  as_root(*environment,
          "rm /etc/hostname; rm -r /etc/ssl; echo own > /etc/own; mkdir -p /app/d/e; touch "
          "/app/d/e/f");
  fork_of(*environment);
  as_root(*environment, "rm -r /app/d/e; mkdir /etc/ssl; echo new > /etc/ssl/new; rm /etc/own");
  survives(std::move(environment),
           "ls -A /etc/ssl d; ls -A / /etc | cksum; for f in /etc/hostname /etc/own; do"
           " [ -e $f ] && echo $f; done; echo whole",
           "/etc/ssl:\nnew\n\nd:\n");
}

TEST_P(SnapshotTest, OpaqueDirectories) {
  auto environment = create();
  as_root(*environment, "rm -r /etc; mkdir /etc; echo only > /etc/one; echo two > /etc/two");
  fork_of(*environment);
  as_root(*environment, "rm /etc/two; mkdir /etc/ssl");
  fork_of(*environment);
  as_root(*environment, "rm -r /etc/ssl; echo file > /etc/ssl");
  survives(std::move(environment), "ls -lA --time-style=+ /etc", "one");
}

TEST_P(SnapshotTest, FilesBecomeDirectoriesAndBack) {
  auto environment = create();
  run(*environment, "echo x > a; mkdir -p b/c; echo y > b/c/d");
  fork_of(*environment);
  run(*environment, "rm a; mkdir a; echo in > a/in; rm -r b; echo b > b");
  fork_of(*environment);
  run(*environment, "rm -r a; ln -s b a; rm b; mkdir b");
  survives(std::move(environment), "ls -lAR --time-style=+ .", "a -> b");
}

TEST_P(SnapshotTest, HolesStayHoles) {
  auto environment = create();
  run(*environment,
      "truncate -s 1G f; echo start | dd of=f conv=notrunc 2>/dev/null;"
      "echo middle | dd of=f bs=1M seek=500 conv=notrunc 2>/dev/null; truncate -s 3M empty");
  auto opened = reopen(std::move(environment));
  EXPECT_EQ(output_of(*opened,
                      "stat -c %s f empty; [ $(du -k f | cut -f1) -lt 1024 ] && echo small;"
                      "head -c 5 f; dd if=f bs=1M skip=500 count=1 2>/dev/null | head -c 6"),
            "1073741824\n3145728\nsmall\nstartmiddle");
  uint64_t stored = 0;
  for (const auto& file : fs::directory_iterator(snapshots() / "layers"))
    stored += file.file_size();
  EXPECT_LT(stored, 64u << 10);
}

TEST_P(SnapshotTest, ManyFilesAndALargeOne) {
  EnvironmentSpec spec;
  spec.limits.disk_bytes = size_t{100} << 20;
  auto environment = create(spec);
  run(*environment,
      "mkdir m; cd m; for i in {1..2000}; do echo $i > file-$i; done; cd ..;"
      "head -c 20000000 /dev/urandom > random; yes 'some text' | head -c 9000000 > t");
  survives(std::move(environment), "cat m/* | cksum; cksum random t; ls m | wc -l", "2000");
}

TEST_P(SnapshotTest, LayersAreStoredOnceAndShared) {
  auto environment = create();
  run(*environment, "head -c 300000 /dev/urandom > big");
  auto child = fork_of(*environment).child;
  run(*environment, "echo parent > f");
  run(*child, "echo child > f");
  SnapshotId parent_id = snapshot_of(*environment), child_id = snapshot_of(*child);
  EXPECT_NE(parent_id, child_id);
  EXPECT_EQ(layer_files(), 3u);
  EXPECT_EQ(store().read(parent_id).layers[0], store().read(child_id).layers[0]);
  SnapshotStore(snapshots()).remove(parent_id);
  EXPECT_EQ(SnapshotStore(snapshots()).collect().layers, 1u);
  auto opened = open(child_id);
  EXPECT_EQ(output_of(*opened, "cat f; stat -c %s big"), "child\n300000\n");
  EXPECT_EQ(snapshot_of(*environment), parent_id) << "what was collected is written again";
  EXPECT_EQ(output_of(*open(parent_id), "cat f"), "parent\n");
}

TEST_P(SnapshotTest, TheIdDoesNotDependOnForksOrFlattening) {
  EnvironmentSpec spec;
  auto straight = create(spec), forked = create(spec);
  std::vector<std::string> steps;
  for (int i = 0; i < 40; ++i)
    steps.push_back("echo " + std::to_string(i) + " > f" + std::to_string(i % 7) + "; mkdir -p d" +
                    std::to_string(i) + "; rm -rf d" + std::to_string(i - 2) +
                    "; rm -rf g; mkdir g"
                    "; touch g/" +
                    std::to_string(i));
  for (const std::string& step : steps) {
    run(*straight, step);
    run(*forked, step);
    fork_of(*forked);
  }
  SnapshotId id = snapshot_of(*straight);
  EXPECT_EQ(snapshot_of(*forked), id);
  // The last merge may still be under way.
  size_t depth = 40;
  for (int i = 0; i < 100 && depth > 18; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    store().remove(id);
    EXPECT_EQ(snapshot_of(*forked), id);
    depth = store().read(id).layers.size();
  }
  EXPECT_LE(depth, 18u);
  survives(std::move(forked), "ls -AR; cat f*", "f6");
}

TEST_P(SnapshotTest, ADeepStackIsMergedWhenItIsOpened) {
  auto environment = create();
  SnapshotManifest manifest = store().read(snapshot_of(*environment));
  SnapshotWriter writer(snapshots());
  std::vector<sandbox::StoredLayerPtr> layers;
  for (int i = 0; i < 300; ++i) {
    PackBuilder pack;
    std::string number = std::to_string(i);
    if (i % 3 == 0) pack.directory("app").directory("app/d").file("app/d/f" + number, number);
    if (i % 3 == 1) pack.directory("app").whiteout("app/d");
    if (i % 3 == 2) pack.directory("app").file("app/last", number);
    layers.push_back(writer.add(pack.file().get()));
  }
  PackBuilder top;
  top.directory("etc").whiteout("etc/hostname", true);
  layers.push_back(writer.add(top.file().get()));
  auto opened = open(writer.finish(manifest, layers));
  EXPECT_EQ(output_of(*opened, "ls -A /app; cat last; ls /etc/hostname 2>&1"),
            "last\n299ls: cannot access '/etc/hostname': No such file or directory\n");
  EXPECT_EQ(output_of(*fork_of(*opened).child, "cat last"), "299");
}

TEST_P(SnapshotTest, ManyAtOnce) {
  std::vector<EnvironmentPtr> environments;
  auto first = create();
  run(*first, "head -c 2000000 /dev/urandom > shared");
  for (int i = 0; i < 12; ++i) {
    environments.push_back(fork_of(*first).child);
    run(*environments[i], "echo " + std::to_string(i % 6) + " > own");
  }
  std::vector<std::promise<SnapshotId>> promises(environments.size());
  for (size_t i = 0; i < environments.size(); ++i)
    environments[i]->snapshot([&promise = promises[i]](common::Result<SnapshotId> r) {
      if (r.ok()) return promise.set_value(r.value());
      promise.set_exception(r.error());
    });
  std::vector<SnapshotId> ids;
  for (auto& promise : promises) ids.push_back(promise.get_future().get());
  EXPECT_EQ(store().list().size(), 6u);
  EXPECT_EQ(layer_files(), 7u);
  environments.clear();
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(ids[i], ids[i + 6]);
    store().verify(ids[i]);
    EXPECT_EQ(output_of(*open(ids[i]), "cat own; stat -c %s shared"),
              std::to_string(i) + "\n2000000\n");
  }
}

TEST_P(SnapshotTest, DISABLED_OpenedByAnotherProcess) {
  SandboxOptions options = this->options();
  options.snapshot_dir = getenv("ESPALIER_TEST_SNAPSHOTS");
  backend_ = make_sandbox_backend(options);
  auto opened = open(SnapshotId{getenv("ESPALIER_TEST_SNAPSHOT")});
  printf("<%s>", output_of(*opened, "echo \"$x\"; f; pwd; cat a").c_str());
}

TEST_P(SnapshotTest, OpensInAnotherProcessAfterThisOneIsKilled) {
  auto environment = create();
  run(*environment, "x='1  2'; f() { echo function; }; mkdir d; cd d; echo file > a");
  SnapshotId id = snapshot_of(*environment);
  std::string command = "ESPALIER_TEST_SNAPSHOTS=" + snapshots().string() +
                        " ESPALIER_TEST_SNAPSHOT=" + id.hex + " /proc/" + std::to_string(getpid()) +
                        "/exe --gtest_also_run_disabled_tests --gtest_filter='*OpenedByAnother" +
                        "Process/" + (GetParam() ? "OnDisk" : "InMemory") + "'";
  FILE* other = popen(command.c_str(), "r");
  std::string output;
  char buffer[4096];
  for (size_t n; (n = fread(buffer, 1, sizeof buffer, other)) > 0;) output.append(buffer, n);
  EXPECT_EQ(pclose(other), 0) << output;
  EXPECT_THAT(output, HasSubstr("<1  2\nfunction\n/app/d\nfile\n>"));
}

TEST_P(SnapshotTest, AnotherImageIsRefused) {
  auto environment = create();
  SnapshotManifest manifest = store().read(snapshot_of(*environment));
  std::string here = manifest.base;
  manifest.base = "host:plan9-4-mips";
  SnapshotId id = SnapshotWriter(snapshots()).finish(manifest, {});
  EXPECT_THAT([&] { open(id); }, ThrowsMessage<common::StoreError>(
                                     ::testing::AllOf(HasSubstr(here), HasSubstr(manifest.base))));
}

TEST_P(SnapshotTest, MissingAndDamagedLayersAreNamedAndHarmNobody) {
  auto environment = create();
  run(*environment, "head -c 5000000 /dev/urandom > f");
  SnapshotId id = snapshot_of(*environment);
  fs::path path = store().layer_path(store().read(id).layers[0]);
  std::string sound = common::read_file(path);
  std::string bad = sound;
  bad[bad.size() / 2] = char(bad[bad.size() / 2] ^ 1);
  auto names_it = ThrowsMessage<common::StoreError>(HasSubstr(path.string()));
  for (const std::string& content : {bad, sound.substr(0, sound.size() / 2), std::string()}) {
    common::write_file_atomically(path, content);
    EXPECT_THAT([&] { open(id); }, names_it);
  }
  fs::remove(path);
  EXPECT_THAT([&] { open(id); }, names_it);
  EXPECT_EQ(backend_->live_environments(), 1u);
  EXPECT_EQ(snapshot_of(*environment), id) << "a lost layer is written again";
  EXPECT_EQ(output_of(*open(id), "stat -c %s f"), "5000000\n");
}

TEST_P(SnapshotTest, ALayerThatLeavesItsDirectoryIsRefused) {
  auto environment = create();
  SnapshotManifest manifest = store().read(snapshot_of(*environment));
  for (const char* path : {"../escaped", "a/../../escaped", "/etc/escaped", "a//b", "./a"}) {
    SnapshotWriter writer(snapshots());
    PackBuilder pack;
    pack.directory("a").file(path, "x");
    SnapshotId id = writer.finish(manifest, {writer.add(pack.file().get())});
    EXPECT_THROW(open(id), common::SandboxError) << path;
  }
  SnapshotWriter writer(snapshots());
  PackBuilder pack;
  pack.symlink("a", "/").file("a/escaped", "x");
  EXPECT_THROW(open(writer.finish(manifest, {writer.add(pack.file().get())})),
               common::SandboxError);
  EXPECT_FALSE(fs::exists("/escaped"));
}

TEST_P(SnapshotTest, WhatCannotBeWrittenIsAnErrorAndTheSandboxGoesOn) {
  auto environment = create();
  run(*environment, "x=1; head -c 3000000 /dev/urandom > f");
  common::write_file_atomically(snapshots(), "not a directory");
  EXPECT_THAT([&] { snapshot_of(*environment); },
              ThrowsMessage<common::StoreError>(HasSubstr(snapshots().string())));
  EXPECT_EQ(output_of(*environment, "echo $x"), "1\n");
  fs::remove(snapshots());
  EXPECT_EQ(output_of(*open(snapshot_of(*environment)), "echo $x"), "1\n");
}

INSTANTIATE_TEST_SUITE_P(Uppers, SnapshotTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "OnDisk" : "InMemory"; });

}  // namespace
}  // namespace espalier::envs::testing
