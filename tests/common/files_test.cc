#include "common/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "common/error.h"

namespace espalier::common {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const StoreError& error) {
    return error.what();
  }
  return "(nothing thrown)";
}

size_t entries(const fs::path& directory) {
  return std::distance(fs::directory_iterator(directory), fs::directory_iterator());
}

TEST(WriteFileAtomically, WritesReplacesAndLeavesNothingBehind) {
  const TempDir dir;
  const fs::path file = dir.path() / "file";
  write_file_atomically(file, "one");
  EXPECT_EQ(read_file(file), "one");
  const std::string binary("a\0b\n\xff", 5);
  write_file_atomically(file, binary);
  EXPECT_EQ(read_file(file), binary);
  write_file_atomically(file, "");
  EXPECT_EQ(read_file(file), "");
  EXPECT_EQ(entries(dir.path()), 1u);
}

TEST(WriteFileAtomically, GivesThePermissionsOfTheUmask) {
  const TempDir dir;
  const mode_t old = ::umask(0027);
  write_file_atomically(dir.path() / "file", "x");
  ::umask(old);
  struct stat info;
  ASSERT_EQ(::stat((dir.path() / "file").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(WriteFileAtomically, FailureNamesThePathAndKeepsTheOldFile) {
  const TempDir dir;
  const fs::path missing = dir.path() / "no" / "file";
  const std::string message = message_of([&] { write_file_atomically(missing, "x"); });
  EXPECT_THAT(message, HasSubstr(missing.string()));
  EXPECT_THAT(message, HasSubstr("No such file or directory"));

  const fs::path target = dir.path() / "target";
  fs::create_directories(target / "full");
  EXPECT_THAT(message_of([&] { write_file_atomically(target, "x"); }), HasSubstr("rename"));
  EXPECT_EQ(entries(dir.path()), 1u) << "a temporary file was left";
}

TEST(ReadFile, FailureNamesThePathAndTheReason) {
  const TempDir dir;
  EXPECT_THAT(message_of([&] { read_file(dir.path() / "none"); }),
              ::testing::AllOf(HasSubstr((dir.path() / "none").string()),
                               HasSubstr("No such file or directory")));
  EXPECT_THAT(message_of([&] { read_file(dir.path()); }), HasSubstr("Is a directory"));
}

TEST(ReadFile, ReadsFilesLongerThanItsBufferAndOfUnknownSize) {
  const TempDir dir;
  std::string content;
  for (int i = 0; i < 50000; ++i) content += std::to_string(i) + "\n";
  write_file_atomically(dir.path() / "long", content);
  EXPECT_EQ(read_file(dir.path() / "long"), content);
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr("Pid:"));
}

TEST(AppendFile, GrowsAcrossOpenings) {
  const TempDir dir;
  const fs::path path = dir.path() / "log";
  {
    AppendFile file(path);
    file.append("a\n");
    file.sync();
  }
  AppendFile(path).append("b\n");
  EXPECT_EQ(read_file(path), "a\nb\n");
  EXPECT_THAT(message_of([&] { AppendFile(dir.path() / "no" / "log"); }),
              HasSubstr((dir.path() / "no" / "log").string()));
}

TEST(AppendFile, AFullDeviceIsAnError) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "this system has no /dev/full";
  AppendFile file("/dev/full");
  EXPECT_THAT(message_of([&] { file.append("x"); }), HasSubstr("No space left on device"));
}

TEST(TempDir, IsItsOwnAndGoesWithEverythingInIt) {
  fs::path path;
  {
    const TempDir one("prefix"), other("prefix");
    EXPECT_NE(one.path(), other.path());
    EXPECT_TRUE(one.path().filename().string().starts_with("prefix."));
    path = one.path();
    fs::create_directories(path / "a" / "b");
    std::ofstream(path / "a" / "b" / "file") << "x";
    ::chmod((path / "a" / "b").c_str(), 0);
    ::chmod((path / "a").c_str(), 0);
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TempDir, InMemoryLiesWhereTheSystemKeepsSharedMemory) {
  if (!fs::exists("/dev/shm")) GTEST_SKIP() << "no /dev/shm on this system";
  fs::path path;
  {
    const TempDir dir("espalier-test", TempPlace::memory);
    path = dir.path();
    write_file_atomically(path / "file", "x");
    const auto left = sweep_temp_dirs(false);
    EXPECT_EQ(std::count(left.begin(), left.end(), path), 0) << "its owner lives";
  }
  EXPECT_FALSE(fs::exists(path));
}

TEST(TempDir, DoesNotFollowLinksOut) {
  const TempDir outside;
  write_file_atomically(outside.path() / "keep", "x");
  {
    const TempDir dir;
    fs::create_directory_symlink(outside.path(), dir.path() / "link");
  }
  EXPECT_TRUE(fs::exists(outside.path() / "keep"));
}

}  // namespace
}  // namespace espalier::common
