#include "common/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/spdlog.h>

#include "common/error.h"
#include "common/files.h"

namespace espalier::common {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class LogTest : public ::testing::Test {
 protected:
  void TearDown() override { spdlog::set_default_logger(saved_); }

  std::string said(const std::filesystem::path& file, bool verbose) {
    ::testing::internal::CaptureStderr();
    init_logging(file, verbose);
    spdlog::debug("a-debug");
    spdlog::info("an-info");
    spdlog::warn("a-warning {}", 7);
    spdlog::default_logger()->flush();
    return ::testing::internal::GetCapturedStderr();
  }

  std::shared_ptr<spdlog::logger> saved_ = spdlog::default_logger();
  TempDir dir_;
};

TEST_F(LogTest, StderrGetsWarningsBareAndTheFileGetsAll) {
  const auto file = dir_.path() / "espalier.log";
  EXPECT_EQ(said(file, false), "espalier: warning: a-warning 7\n");
  EXPECT_THAT(read_file(file), AllOf(HasSubstr("a-debug"), HasSubstr("an-info"),
                                     HasSubstr("a-warning 7"), HasSubstr("20")));
}

TEST_F(LogTest, VerboseShowsInfo) {
  EXPECT_THAT(said("", true), AllOf(HasSubstr("an-info"), Not(HasSubstr("a-debug"))));
}

TEST_F(LogTest, AppendsToTheLogOfAnEarlierStart) {
  const auto file = dir_.path() / "espalier.log";
  write_file_atomically(file, "earlier\n");
  said(file, false);
  EXPECT_THAT(read_file(file), ::testing::StartsWith("earlier\n"));
}

TEST_F(LogTest, AnUnusableFileIsNamed) {
  write_file_atomically(dir_.path() / "file", "");
  try {
    init_logging(dir_.path() / "file" / "espalier.log", false);
    FAIL();
  } catch (const StoreError& error) {
    EXPECT_THAT(error.what(), HasSubstr("espalier.log"));
  }
}

}  // namespace
}  // namespace espalier::common
