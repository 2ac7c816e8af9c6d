// Sandboxes over images (docs/sandbox.md): the same promises as over the host's own root.
#include <gmock/gmock.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdlib>

#include "envs/image/layout.h"
#include "image_fixture.h"
#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

enum class Form { directory, tarball, oci, docker_archive };

std::string name_of(const ::testing::TestParamInfo<Form>& info) {
  constexpr const char* kNames[] = {"directory", "tarball", "oci", "docker_archive"};
  return kNames[int(info.param)];
}

/// The tiny root in every form an image may have.
class TinyImage {
 public:
  TinyImage() {
    good_ = make_tiny_root(directory_.path() / "root");
    tar_ = (directory_.path() / "root.tar").string();
    good_ = good_ && host("tar --owner=0 --group=0 --numeric-owner -C " +
                          (directory_.path() / "root").string() + " -cf " + tar_ + " .") == 0;
    image_.architecture = image::machine_architecture();
    image_.layers = {bytes_of_file(tar_),
                     HandMadeTar().file("etc/layer", "second\n").file("etc/.wh.issue", "").bytes()};
    image_.run_config =
        R"({"Env":["PATH=/usr/bin","FROM_IMAGE=yes","BOTH=image"],"WorkingDir":"/srv/data","User":"1000"})";
    image_.write_oci(directory_.path() / "oci");
    write_bytes(directory_.path() / "saved.tar", image_.docker_archive());
  }
  bool good() const { return good_; }
  std::string reference(Form form) const {
    switch (form) {
      case Form::directory:
        return "dir:" + (directory_.path() / "root").string();
      case Form::tarball:
        return tar_;
      case Form::oci:
        return (directory_.path() / "oci").string();
      case Form::docker_archive:
        return (directory_.path() / "saved.tar").string();
    }
    return "";
  }
  const HandMadeImage& image() const { return image_; }
  const std::string& tar() const { return tar_; }

 private:
  common::TempDir directory_{"espalier-tiny-image"};
  HandMadeImage image_;
  std::string tar_;
  bool good_ = false;
};

class OverImages : public SandboxTest {
 protected:
  static void SetUpTestSuite() { tiny_ = new TinyImage; }
  static void TearDownTestSuite() { delete std::exchange(tiny_, nullptr); }
  void SetUp() override {
    if (!tiny_->good()) GTEST_SKIP() << "a tiny root could not be made of the host's programs";
    SandboxTest::SetUp();
  }
  SandboxOptions options() const override {
    SandboxOptions options;
    options.image_cache = directory_.path() / "cache";
    return options;
  }
  EnvironmentPtr start(const std::string& image) {
    EnvironmentSpec spec;
    spec.image = image;
    return create(spec);
  }
  std::string why_refused(const EnvironmentSpec& spec) {
    try {
      create(spec);
    } catch (const common::Error& error) {
      return error.what();
    }
    return "(it was not)";
  }
  bool root_mode() { return geteuid() == 0; }

  static TinyImage* tiny_;
};
TinyImage* OverImages::tiny_ = nullptr;

class EveryForm : public OverImages, public ::testing::WithParamInterface<Form> {};

TEST_P(EveryForm, IsTheRootAndNothingOfTheHostIs) {
  auto environment = start(tiny_->reference(GetParam()));
  std::string seen = output_of(*environment, "ls -a /; ls /usr/bin; cat /etc/passwd");
  EXPECT_THAT(seen, Not(HasSubstr("python")));
  EXPECT_THAT(seen, HasSubstr("agent:x:1000:1000"));
  EXPECT_EQ(output_of(*environment, "cd ~ && touch own && echo ~ && id -u"), "/home/agent\n1000\n");
  EXPECT_EQ(output_of(*environment, "echo text > /tmp/f && cat /tmp/f /etc/hostname"),
            "text\nsandbox\n");
  EXPECT_EQ(output_of(*environment, "cat < /dev/null; head -c 3 /dev/zero | cat -A; ls /dev/fd/0"),
            "^@^@^@/dev/fd/0\n");
  EXPECT_EQ(output_of(*environment, "ls /sys; echo $$ > /dev/shm/x && ls /dev/shm"), "x\n");
  EXPECT_THAT(output_of(*environment, "cat /proc/kcore; echo x > /proc/sys/kernel/hostname"),
              Not(HasSubstr("ELF")));
}

TEST_P(EveryForm, OwnersAreTheImagesAndChangesStayInside) {
  auto environment = start(tiny_->reference(GetParam()));
  if (root_mode()) {
    EXPECT_EQ(output_of(*environment, "stat -c %u:%g /usr/bin/bash /etc"), "0:0\n0:0\n");
    EXPECT_NE(run(*environment, "rm -f /usr/bin/seq").exit_code, 0);
  }
  EXPECT_EQ(
      as_root(*environment, "rm /usr/bin/seq; echo changed > /etc/new; chmod 700 /srv").exit_code,
      0);
  EXPECT_EQ(run(*environment, "seq 1").exit_code, 127);
  auto other = start(tiny_->reference(GetParam()));
  EXPECT_EQ(output_of(*other, "seq 1; ls /etc/new 2>&1 | head -c 3"), "1\nls:");
}

TEST_P(EveryForm, ForkSnapshotAndVerifier) {
  auto environment = start(tiny_->reference(GetParam()));
  run(*environment, "x=1; echo one > /tmp/state");
  EXPECT_EQ(as_root(*environment, "rm /usr/bin/seq").exit_code, 0);
  auto child = fork_of(*environment).child;
  run(*child, "x=2; echo two > /tmp/state");
  EXPECT_EQ(output_of(*environment, "echo $x; cat /tmp/state"), "1\none\n");
  EXPECT_EQ(output_of(*child, "echo $x; cat /tmp/state; type seq >/dev/null 2>&1 || echo gone"),
            "2\ntwo\ngone\n");
  SnapshotId id = snapshot_of(*child);
  child.reset();
  auto opened = open(id);
  EXPECT_EQ(output_of(*opened, "echo $x; cat /tmp/state; type seq >/dev/null 2>&1 || echo gone"),
            "2\ntwo\ngone\n");
  EXPECT_EQ(verify_with(*opened, "#!/bin/bash\necho 0.5 > /logs/verifier/reward.txt\n").reward,
            0.5);
}

/// A live fork carries what by value cannot be had: a loop in the middle of its input.
TEST_P(EveryForm, LiveForksCarryTheSessionsMemory) {
  if (fork_of(*create()).kind != ForkKind::live)
    GTEST_SKIP() << "this machine does not let sessions be copied";
  auto environment = start(tiny_->reference(GetParam()));
  run(*environment, "cd /tmp; seq 1 9 > numbers; exec 7< numbers; read -u 7 x; f() { echo f$x; }");
  const std::string pid = output_of(*environment, "echo $BASHPID");
  Fork fork = fork_of(*environment);
  ASSERT_EQ(fork.kind, ForkKind::live);
  Fork again = fork_of(*fork.child);
  ASSERT_EQ(again.kind, ForkKind::live);
  for (Environment* each : {environment.get(), fork.child.get(), again.child.get()})
    EXPECT_EQ(output_of(*each, "read -u 7 x; f; pwd; echo $BASHPID"), "f2\n/tmp\n" + pid);
  run(*fork.child, "rm numbers");
  EXPECT_EQ(output_of(*again.child, "read -u 7 x; exec 7<&-; echo $x; ls"), "3\nnumbers\n");
  EXPECT_EQ(output_of(*open(snapshot_of(*again.child)), "f; ls"), "f3\nnumbers\n");
}

TEST_P(EveryForm, LiveForksCarryATerminal) {
  if (fork_of(*create()).kind != ForkKind::live)
    GTEST_SKIP() << "this machine does not let sessions be copied";
  EnvironmentSpec spec;
  spec.image = tiny_->reference(GetParam());
  spec.terminal = TerminalSize{100, 30};
  auto environment = create(spec);
  type_until(*environment, "x=7; echo ready-$x\n", "ready-7");
  type_until(*environment, "echo half-", "echo half-");
  Fork fork = fork_of(*environment);
  EXPECT_EQ(fork.kind, ForkKind::live);
  EXPECT_THAT(type_until(*fork.child, "child-$x\n", "\nhalf-child-7").screen,
              HasSubstr("half-child-7"));
  EXPECT_THAT(type_until(*environment, "parent-$x\n", "\nhalf-parent-7").screen,
              HasSubstr("half-parent-7"));
}

INSTANTIATE_TEST_SUITE_P(Images, EveryForm,
                         ::testing::Values(Form::directory, Form::tarball, Form::oci,
                                           Form::docker_archive),
                         name_of);

TEST_F(OverImages, TheConfigurationCountsUnlessTheTaskSaysOtherwise) {
  EnvironmentSpec spec;
  spec.image = tiny_->reference(Form::oci);
  spec.variables = {{"BOTH", "task"}};
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment,
                      "pwd; echo $FROM_IMAGE $BOTH $PATH; cat /etc/layer; ls /etc/issue"
                      " 2>/dev/null || echo whited out"),
            "/srv/data\nyes task /usr/bin\nsecond\nwhited out\n");
  // The working directory belongs to the session's user.
  EXPECT_EQ(run(*environment, "touch mine").exit_code, 0);
  spec.workdir = "/work/here";
  EXPECT_EQ(output_of(*create(spec), "pwd; touch mine && ls"), "/work/here\nmine\n");
}

TEST_F(OverImages, TheImagesUserIsTheSessions) {
  HandMadeImage image = tiny_->image();
  std::string file = (directory_.path() / "user.tar").string();
  auto with_user = [&](const std::string& user) {
    image.run_config = R"({"User":")" + user + "\"}";
    write_bytes(file, image.docker_archive());
    EnvironmentSpec spec;
    spec.image = file;
    SandboxTest::SetUp();  // a backend that has not seen the file before
    return spec;
  };
  EXPECT_THAT(why_refused(with_user("nobody-here")), HasSubstr("is not in its /etc/passwd"));
  EXPECT_THAT(why_refused(with_user("1234")), HasSubstr("has the uid 1234"));
  if (!root_mode()) GTEST_SKIP() << "a session as the sandbox's root takes root's uid mapping";
  for (const char* user : {"", "root", "0:0"})
    EXPECT_EQ(output_of(*create(with_user(user)), "id -u; echo ~; touch /usr/bin/new && echo $PWD"),
              "0\n/root\n/\n")
        << user;
  auto as_root = create(with_user("root"));
  EXPECT_EQ(exec(*as_root, {"id", "-u"}, false).output, "0\n");
  EXPECT_THAT(exec(*as_root, {"env"}, false).output, HasSubstr("HOME=/root\n"));
}

TEST_F(OverImages, FilesOfTheTaskLieInTheWorkingDirectory) {
  write_host_file(directory_.path() / "files/sub/input", "of the task", 0644);
  EnvironmentSpec spec;
  spec.image = tiny_->reference(Form::tarball);
  spec.files = directory_.path() / "files";
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment, "pwd; cat sub/input; stat -c ' %u' sub/input"),
            "/app\nof the task 1000\n");
}

TEST_F(OverImages, AnImageWithoutBashIsRefusedByName) {
  fs::path root = directory_.path() / "no-bash";
  EnvironmentSpec spec;
  spec.image = "dir:" + root.string();
  write_bytes(root / "bin/sh", "#!/nothing\n");
  EXPECT_THAT(why_refused(spec),
              AllOf(HasSubstr("has no /bin/bash"), HasSubstr("there is a /bin/sh")));
  fs::copy_file("/bin/bash", root / "bin/bash");
  SandboxTest::SetUp();
  EXPECT_THAT(why_refused(spec), AllOf(HasSubstr("/bin/bash needs /lib"), HasSubstr("ld-linux")));
}

TEST_F(OverImages, ABadImageHarmsNoOther) {
  auto environment = start(tiny_->reference(Form::tarball));
  std::string file = (directory_.path() / "bad.tar").string();
  write_bytes(file, HandMadeTar().file("../evil", "x").bytes());
  EnvironmentSpec spec;
  spec.image = file;
  EXPECT_THAT(why_refused(spec), AllOf(HasSubstr(file), HasSubstr("'../evil'")));
  spec.image = "no/such:image";
  EXPECT_THAT(why_refused(spec), HasSubstr("no/such:image"));
  EXPECT_EQ(output_of(*environment, "echo works"), "works\n");
  EXPECT_EQ(output_of(*create(), "echo host too"), "host too\n");
}

TEST_F(OverImages, ASnapshotOpensOverTheSameImageOnly) {
  std::string file = (directory_.path() / "mine.tar").string();
  fs::copy_file(tiny_->tar(), file);
  SnapshotId id;
  {
    auto environment = start(file);
    run(*environment, "echo kept > /tmp/kept");
    id = snapshot_of(*environment);
  }
  SandboxTest::SetUp();
  EXPECT_EQ(output_of(*open(id), "cat /tmp/kept"), "kept\n");
  write_bytes(file, HandMadeTar().file("bin/bash", "other").bytes());
  SandboxTest::SetUp();
  EXPECT_THROW(open(id), common::Error);
  // Of the right kind, but another one.
  write_bytes(file, HandMadeTar().file("more", "x").open_ended() + bytes_of_file(tiny_->tar()));
  SandboxTest::SetUp();
  EXPECT_THAT([&] { open(id); },
              ::testing::ThrowsMessage<common::StoreError>(
                  AllOf(HasSubstr(file), HasSubstr("sha256:"), HasSubstr("was taken over"))));
}

TEST_F(OverImages, DeviceNodesOfADirectoryAreDead) {
  if (!root_mode()) GTEST_SKIP() << "making a device node takes root";
  fs::path root = directory_.path() / "root";
  ASSERT_TRUE(make_tiny_root(root));
  ASSERT_EQ(mknod((root / "srv/memory").c_str(), S_IFCHR | 0666, makedev(1, 1)), 0);
  auto environment = start("dir:" + root.string());
  std::string seen = as_root(*environment, "head -c 1 /srv/memory").output;
  EXPECT_THAT(seen, HasSubstr("Permission denied"));
  // Set-user-id programs give nobody anything.
  as_root(*environment, "chmod 4755 /usr/bin/id");
  EXPECT_EQ(output_of(*environment, "id -u"), "1000\n");
}

TEST_F(OverImages, ADockerfileIsBuiltOnce) {
  if (host("command -v podman >/dev/null || command -v buildah >/dev/null") != 0)
    GTEST_SKIP() << "neither podman nor buildah is installed";
  fs::path context = directory_.path() / "context";
  fs::create_directories(context);
  fs::copy_file(tiny_->tar(), context / "root.tar");
  write_bytes(context / "Dockerfile",
              "FROM scratch\nADD root.tar /\nENV BUILT=yes\nWORKDIR /srv/data\nUSER "
              "1000\nENTRYPOINT [\"/never\"]\n");
  EnvironmentSpec spec;
  spec.image = (context / "Dockerfile").string();
  std::string why;
  EnvironmentPtr environment;
  try {
    environment = create(spec);
  } catch (const common::Error& error) {
    GTEST_SKIP() << "the builder does not work on this machine: " << error.what();
  }
  EXPECT_EQ(output_of(*environment, "pwd; echo $BUILT; id -u"), "/srv/data\nyes\n1000\n");
  environment.reset();
  // Found by its content, also from the directory's name, without a builder.
  std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  SandboxTest::SetUp();
  spec.image = context.string();
  EXPECT_EQ(output_of(*create(spec), "echo $BUILT"), "yes\n");
  // Other content is another image.
  write_bytes(context / "more", "more");
  SandboxTest::SetUp();
  EXPECT_THAT(why_refused(spec), HasSubstr("neither podman nor buildah is installed"));
  setenv("PATH", path.c_str(), 1);
}

}  // namespace
}  // namespace espalier::envs::testing
