// espalier env exec, and what it says of images it cannot have.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "app/process.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier {
namespace {

namespace fs = std::filesystem;
using test::Finished;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class EnvExec : public ::testing::Test {
 protected:
  void SetUp() override {
    const Finished probe = exec({"--", "true"});
    if (probe.exit_code == common::kExitUnsupported) GTEST_SKIP() << probe.output;
    ASSERT_EQ(probe.exit_code, 0) << probe.output;
  }
  /// With an image cache of the test's own.
  Finished exec(std::vector<std::string> arguments) {
    std::vector<std::string> argv = {"env", "XDG_CACHE_HOME=" + (place_.path() / "cache").string()};
    arguments.insert(arguments.begin(), {"env", "exec"});
    for (std::string& word : test::espalier(std::move(arguments))) argv.push_back(std::move(word));
    return test::run(argv);
  }
  /// What the host's shell makes with this script in the test's directory.
  std::string made(const std::string& name, const std::string& script) {
    const Finished done =
        test::run({"bash", "-ec", "cd " + place_.path().string() + "; " + script});
    EXPECT_EQ(done.exit_code, 0) << done.output;
    return (place_.path() / name).string();
  }

  common::TempDir place_{"espalier-exec-test"};
};

TEST_F(EnvExec, GivesTheCommandsOutputAndExitCode) {
  Finished seen = exec({"--", "bash", "-c", "id -u; pwd; echo error >&2; exit 7"});
  EXPECT_EQ(seen.output, "1000\n/app\nerror\n");
  EXPECT_EQ(seen.exit_code, 7);
  EXPECT_EQ(exec({"--root", "--", "id", "-u"}).output, "0\n");
  EXPECT_EQ(exec({"--", "/no/such/program"}).exit_code, 127);
  seen = exec({"--timeout", "0.2", "--", "sleep", "1000"});
  EXPECT_EQ(seen.exit_code, common::kExitFailure);
  EXPECT_THAT(seen.output, HasSubstr("killed after 0.2 s"));
}

TEST_F(EnvExec, RunsInAnImage) {
  const std::string tar = made("root.tar", std::string(ESPALIER_SOURCE_DIR) +
                                               "/scripts/host_root.sh root.tar; gzip -k root.tar; "
                                               "mkdir root; tar -C root -xf root.tar");
  for (const std::string& image : {tar, tar + ".gz", (place_.path() / "root").string()}) {
    const Finished seen = exec({"--image", image, "--", "bash", "-c", "ls -d /usr/share; pwd"});
    EXPECT_THAT(seen.output, AllOf(HasSubstr("cannot access"), HasSubstr("\n/app\n"))) << image;
  }
}

TEST_F(EnvExec, BadImagesAreRefusedBeforeTheStart) {
  auto why_not = [&](const std::string& image) {
    const Finished seen = exec({"--image", image, "--", "true"});
    EXPECT_EQ(seen.exit_code, common::kExitUsage) << image;
    EXPECT_THAT(seen.output, HasSubstr(image));
    return seen.output;
  };
  EXPECT_THAT(why_not(made("dots.tar", "touch x; tar -P --transform=s,x,../evil, -cf dots.tar x")),
              HasSubstr("'../evil' has '..' in its path"));
  EXPECT_THAT(why_not(made("abs.tar", "touch x; tar -P --transform=s,x,/evil, -cf abs.tar x")),
              HasSubstr("'/evil' has an absolute path"));
  EXPECT_THAT(why_not(made("text.tar", "echo text > text.tar")), HasSubstr("not a tar archive"));
  EXPECT_THAT(why_not("/nowhere.tar"), HasSubstr("No such file or directory"));
  EXPECT_THAT(why_not(made("nothing", "mkdir nothing")), HasSubstr("has no /bin/bash"));
  if (geteuid() == 0) {
    EXPECT_THAT(why_not(made("node.tar", "mknod n b 8 0; tar -cf node.tar n")),
                HasSubstr("'n' is a device node"));
  }
}

TEST_F(EnvExec, AFullDiskIsSaid) {
  if (geteuid() != 0) GTEST_SKIP() << "mounting a small file system takes root";
  const std::string tar =
      made("root.tar", std::string(ESPALIER_SOURCE_DIR) + "/scripts/host_root.sh root.tar");
  const Finished seen = test::run(
      {"unshare", "-m", "bash", "-c",
       "mkdir -p $1/small && mount -t tmpfs -o size=2m x $1/small && export "
       "XDG_CACHE_HOME=$1/small && \"$0\" env exec --image $1/root.tar -- true; echo code $?; "
       "\"$0\" env exec -- echo the host works",
       ESPALIER_BINARY, place_.path().string()});
  EXPECT_THAT(seen.output, AllOf(HasSubstr("No space left on device"), HasSubstr(tar),
                                 HasSubstr("code 1\n"), HasSubstr("the host works\n")));
}

TEST_F(EnvExec, MissingKernelFeaturesAreNamed) {
  for (const std::string kind : {"user", "net", "pid"}) {
    const Finished seen = test::run({"unshare", "-Ur", "bash", "-c",
                                     "echo 0 > /proc/sys/user/max_" + kind +
                                         "_namespaces && \"$0\" env exec -- true; echo code $?",
                                     ESPALIER_BINARY});
    if (seen.output.find("unshare:") != std::string::npos) GTEST_SKIP() << seen.output;
    EXPECT_THAT(seen.output,
                AllOf(HasSubstr("sysctl"), HasSubstr("namespaces"), Not(HasSubstr("code 0"))))
        << kind;
  }
}

// A bind mount of /usr takes along what is mounted below it.
TEST_F(EnvExec, WhatIsMountedBelowUsrIsReadOnlyToo) {
  if (geteuid() != 0) GTEST_SKIP() << "mounting takes root";
  const Finished seen = test::run(
      {"unshare", "-m", "bash", "-c",
       "mount -t tmpfs x /usr/share && chmod 1777 /usr/share && mknod -m 666 /usr/share/zero c 1 5 "
       "&& \"$0\" env exec -- bash -c 'touch /usr/share/x; head -c 1 /usr/share/zero'",
       ESPALIER_BINARY});
  EXPECT_THAT(seen.output,
              AllOf(HasSubstr("Read-only file system"), HasSubstr("Permission denied")));
}

}  // namespace
}  // namespace espalier
