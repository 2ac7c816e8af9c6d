#include "app/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "app/report/text.h"

namespace espalier::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Progress, ShowsLabelShareRateEtaAndStatus) {
  const std::string line =
      render_progress({"train", "steps", "reward 0.43", 30, 60, 60}, {100, false, false});
  EXPECT_THAT(line, HasSubstr("train  [====="));
  EXPECT_THAT(line, HasSubstr("30/60 steps 50%"));
  EXPECT_THAT(line, HasSubstr("30.0 steps/min"));
  EXPECT_THAT(line, HasSubstr("ETA 1:00"));
  EXPECT_THAT(line, HasSubstr("reward 0.43"));
}

TEST(Progress, NeverWiderThanTheTerminal) {
  for (int width = 1; width <= 160; ++width) {
    for (bool utf8 : {false, true}) {
      const std::string line =
          render_progress({"evaluation, before", "episodes", std::string(300, 'x'), 7, 320, 3},
                          {width, false, utf8});
      EXPECT_LE(columns_of(line), static_cast<size_t>(std::max(1, width - 1)));
      const std::string brief =
          render_progress({"eval", "tasks", "", 7, 320, 3}, {width, false, utf8});
      EXPECT_LE(columns_of(brief), static_cast<size_t>(std::max(1, width - 1)));
    }
  }
}

TEST(Progress, UnknownTotalAndControlBytes) {
  const std::string line =
      render_progress({"roll\x1b[2J", "tokens", "a\nb", 5000, 0, 1}, {80, false, false});
  EXPECT_THAT(line, HasSubstr("5,000 tokens"));
  EXPECT_THAT(line, Not(HasSubstr("%")));
  EXPECT_THAT(line, Not(HasSubstr("ETA")));
  EXPECT_EQ(line.find('\x1b'), line.npos);
  EXPECT_EQ(line.find('\n'), line.npos);
}

TEST(Progress, OffATerminalOnlyTheFinalLineOfAShortJob) {
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  {
    Progress progress("sft", 250, "steps", file);
    for (int step = 1; step <= 250; ++step) progress.update(step, "loss 0.1");
    progress.finish("loss 0.05");
    progress.update(1);  // ignored
  }
  std::rewind(file);
  char text[512] = {};
  const size_t size = std::fread(text, 1, sizeof text - 1, file);
  std::fclose(file);
  const std::string written(text, size);
  EXPECT_EQ(std::count(written.begin(), written.end(), '\n'), 1);
  EXPECT_THAT(written, HasSubstr("250/250 steps 100%"));
  EXPECT_THAT(written, HasSubstr("loss 0.05\n"));
  EXPECT_EQ(written.find('\x1b'), written.npos);
}

}  // namespace
}  // namespace espalier::app
