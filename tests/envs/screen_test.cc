// The terminal emulator, and that a copy of it is one.
#include "envs/terminal/screen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/error.h"

namespace espalier::envs::terminal {
namespace {

constexpr TerminalSize kSmall{20, 5};

Screen showing(std::string_view bytes, TerminalSize size = kSmall) {
  Screen screen(size);
  screen.feed(bytes);
  return screen;
}

/// Everything that can be seen of a screen.
std::string everything(const Screen& screen) {
  return screen.redraw() + "|" + screen.text() + "|" + std::to_string(screen.cursor_row()) + "," +
         std::to_string(screen.cursor_column()) + "|" + std::to_string(screen.cursor_visible()) +
         std::to_string(screen.alternate()) + "|" + screen.title();
}

TEST(Screen, ShowsRowsWithoutBlanksAtTheirEnds) {
  Screen screen = showing("one  \r\n  two\r\n\r\nthree");
  EXPECT_EQ(screen.text(), "one\n  two\n\nthree\n");
  EXPECT_EQ(screen.cursor_row(), 3);
  EXPECT_EQ(screen.cursor_column(), 5);
}

TEST(Screen, ScrollsAndWraps) {
  EXPECT_EQ(showing("1\r\n2\r\n3\r\n4\r\n5\r\n6\r\n7").text(), "3\n4\n5\n6\n7");
  EXPECT_EQ(showing(std::string(25, 'x')).text(),
            std::string(20, 'x') + "\n" + std::string(5, 'x') + "\n\n\n");
}

TEST(Screen, MovesOnlyTheScrollRegion) {
  EXPECT_EQ(showing("a\r\nb\r\nc\r\nd\r\ne\033[2;4r\033[4;1H\nX").text(), "a\nc\nd\nX\ne");
  EXPECT_EQ(showing("a\r\nb\r\nc\r\nd\r\ne\033[2;4r\033[2;1H\033M").text(), "a\n\nb\nc\ne");
  EXPECT_EQ(showing("abcdef\r\033[2@XY\r\n123456\r\033[3P").text(), "XYabcdef\n456\n\n\n");
}

TEST(Screen, TheAlternateScreenLeavesThePrimaryAlone) {
  Screen screen = showing("shell$ \033[?1049h\033[H\033[2Jeditor");
  EXPECT_TRUE(screen.alternate());
  EXPECT_EQ(screen.text(), "editor\n\n\n\n");
  screen.feed("\033[?1049l");
  EXPECT_FALSE(screen.alternate());
  EXPECT_EQ(screen.text(), "shell$\n\n\n\n");
  EXPECT_EQ(screen.cursor_column(), 7);
}

TEST(Screen, WideCombiningAndInvalidCharacters) {
  EXPECT_EQ(showing("\u4e2d\u6587x").text(), "\u4e2d\u6587x\n\n\n\n");
  EXPECT_EQ(showing("\u4e2d\u6587x").cursor_column(), 5);
  EXPECT_EQ(showing("e\u0301x").text(), "e\u0301x\n\n\n\n");
  EXPECT_EQ(showing("e\u0301x").cursor_column(), 2);
  EXPECT_EQ(showing("a\xff\xc3z").text(), "a\ufffd\ufffdz\n\n\n\n");
  // Half of a wide character overwritten: nothing is left of it.
  EXPECT_EQ(showing("\u4e2dx\r\033[Cy").text(), " yx\n\n\n\n");
}

TEST(Screen, AnswersWhatItIsAsked) {
  Screen screen = showing("ab\033[6n");
  EXPECT_EQ(screen.take_replies(), "\033[1;3R");
  EXPECT_EQ(screen.take_replies(), "");
  screen.feed("\033[c");
  EXPECT_THAT(screen.take_replies(), ::testing::StartsWith("\033[?"));
  for (int i = 0; i < 100000; ++i) screen.feed("\033[6n");
  EXPECT_LE(screen.take_replies().size(), size_t{64} << 10);
}

TEST(Screen, RedrawShowsTheSame) {
  Screen screen =
      showing("\033[1;31mred\033[0m \033[48;5;22m  \033[0m\u4e2de\u0301\r\n\n\033[7mrev");
  Screen again = showing(screen.redraw());
  EXPECT_EQ(again.redraw(), screen.redraw());
  EXPECT_EQ(again.text(), screen.text());
}

TEST(Screen, KeepsTheCursorsRowWhenItBecomesSmaller) {
  Screen screen = showing("1\r\n2\r\n3\r\n4\r\n5$ ");
  screen.resize({10, 3});
  EXPECT_EQ(screen.text(), "3\n4\n5$");
  EXPECT_EQ(screen.cursor_row(), 2);
  screen.feed("x\r\n6");
  EXPECT_EQ(screen.text(), "4\n5$ x\n6");
  screen.resize({30, 4});
  screen.feed("\r\n" + std::string(25, 'y'));
  EXPECT_EQ(screen.text(), "4\n5$ x\n6\n" + std::string(25, 'y'));
  EXPECT_THROW(screen.resize({0, 4}), common::SandboxError);
  EXPECT_THROW(Screen({80, 1'000'000}), common::SandboxError);
}

// Prefixes after which much is held that no row shows, and what brings it out.
const std::vector<std::string> kPrefixes = {
    "plain text",
    "\033[1;4;38;2;1;2;3;48;5;200mcoloured",
    "\033[2;4r\033[3;1Hin the region",
    "\033[2;4r\033[?6h\033[1;1Horigin mode",
    "saved \0337\033[5;5H elsewhere",
    "\033[?1049halternate\033[2;3r\033[3;1H",
    "primary\r\n\033[3;7H\0337\033[?1049h\033[31malternate",
    "01234567890123456789",                // the cursor waits behind the last column
    "0123456789012345678\u4e2d",           // a wide character does not fit
    "e",                                   // a combining character may follow
    "\xe4\xb8",                            // half a character
    "\033[1;3",                            // half a sequence
    "\033]0;half a ti",                    // half a title
    "\033Pq",                              // half a device control string
    "\033(0lqk",                           // line drawing
    "\x0e\033)0mqj",                       // shifted out
    "\033[?7l01234567890123456789",        // no wrapping
    "\033[4hinsert",                       // insert mode
    "\033[3g\033[5G\033H\033[11G\033H\r",  // tab stops
    "\033[?25l\033[?2004h\033[?1h\033=",   // modes that show elsewhere
    "\033[1\"qguarded\033[0\"qfree",       // protected cells
    "bad \xff\xc3\xff",
    "\033[?69h\033[5;15s\033[2;1H",  // left and right margins
};
const std::vector<std::string> kSuffixes = {
    "\xad\u0301X\t*\t*\r\n\n\n\nlast\033[6n",
    "H\aZ\033\\lqk\017abc\0338@\033[6n",
    "m!\033[K\033M\033M\033M\033M\033[?K\033[?1049lback\0338#\033[5n",
    "\033[?2J\033[H\033[Lnew\033[2@\033[20G~~~~\033[?6l\033[Hhome\033[c",
};

TEST(ScreenCopy, ShowsAndAnswersWhatTheOriginalDoes) {
  for (const std::string& prefix : kPrefixes) {
    for (const std::string& suffix : kSuffixes) {
      SCOPED_TRACE(::testing::PrintToString(prefix + " then " + suffix));
      Screen original = showing(prefix), untouched = showing(prefix);
      Screen copy = original.copy();
      EXPECT_EQ(everything(copy), everything(original));
      original.feed("\033[2J\033[0m\033[r\033[H something else \033[6n");
      EXPECT_EQ(everything(copy), everything(untouched)) << "the original moved its copy";
      copy.feed(suffix);
      untouched.feed(suffix);
      EXPECT_EQ(everything(copy), everything(untouched));
      EXPECT_EQ(copy.take_replies(), untouched.take_replies());
    }
  }
}

TEST(ScreenCopy, HoldsForRandomBytesAndOutlivesTheOriginal) {
  std::mt19937 random(7);
  const std::string alphabet =
      "\033[[;;0123456789?>=!\"$'()*+ABCDHJKLMPSTXZ@abcdefghijlmnrstu]\\P\a\r\n\t\x0e\x0f\x9b\x90 "
      "\xe4\xb8\xad\xcc\x81";
  auto some = [&](size_t n) {
    std::string out;
    while (out.size() < n) out += alphabet[random() % alphabet.size()];
    return out;
  };
  auto screen = std::make_unique<Screen>(kSmall);
  for (int i = 0; i < 300; ++i) {
    screen->feed(some(200));
    auto copy = std::make_unique<Screen>(screen->copy());
    std::string more = some(200);
    screen->feed(more);
    copy->feed(more);
    ASSERT_EQ(everything(*copy), everything(*screen)) << i;
    ASSERT_EQ(copy->take_replies(), screen->take_replies()) << i;
    screen = std::move(copy);
  }
}

TEST(ScreenCopy, CanBeResizedApart) {
  Screen original = showing("1\r\n2\r\n3$ ");
  Screen copy = original.copy();
  copy.resize({40, 8});
  copy.feed("\033[8;30Hfar");
  EXPECT_EQ(original.text(), "1\n2\n3$\n\n");
  EXPECT_EQ(copy.text(), "1\n2\n3$\n\n\n\n\n" + std::string(29, ' ') + "far");
}

TEST(Screen, SurvivesWhatIsMadeToExhaustIt) {
  Screen screen = showing("before");
  std::string marks;
  for (int i = 0; i < 1000; ++i) marks += "\u0301";
  for (int i = 0; i < 200; ++i) screen.feed(marks);
  screen.feed("\033]0;" + std::string(1'000'000, 'x'));
  screen.feed("\a\033[999999999999999999999@\033[2147483647;99999999999H\033[2J\033[Hafter");
  EXPECT_THAT(screen.text(), ::testing::StartsWith("after"));
}

}  // namespace
}  // namespace espalier::envs::terminal
