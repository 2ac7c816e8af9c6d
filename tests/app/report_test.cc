#include "app/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <regex>

#include "app/report/chart.h"
#include "app/report/page.h"
#include "app/report/run_data.h"
#include "app/report/text.h"
#include "app/report/tree_layout.h"
#include "app/report/tree_view.h"
#include "app/synthetic_run.h"
#include "common/error.h"
#include "common/files.h"

namespace espalier::app {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size()))
    ++count;
  return count;
}

/// Names of elements that were opened and never closed, or closed out of order; empty for
/// well-formed text.
std::string first_unbalanced(const std::string& page) {
  std::vector<std::string> open;
  for (size_t at = page.find('<'); at != page.npos; at = page.find('<', at + 1)) {
    const size_t end = page.find('>', at);
    if (page[at + 1] == '!') continue;
    const bool closing = page[at + 1] == '/';
    const size_t from = at + (closing ? 2 : 1);
    const std::string name = page.substr(from, page.find_first_of(" >/", from) - from);
    if (closing) {
      if (open.empty() || open.back() != name) return name;
      open.pop_back();
    } else if (page[end - 1] != '/' && name != "meta") {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : open.back();
}

TEST(ReportText, UntrustedBytesAreShownNotObeyed) {
  EXPECT_EQ(html("<b a='1' c=\"2\">&"), "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;");
  EXPECT_EQ(html("\x1b[31m\x07\x7f\r"), "\u241b[31m\u2407\u2421\u240d");
  EXPECT_EQ(html(std::string("a\0b", 3)), "a\u2400b");
  EXPECT_EQ(html("\xff\xc0\xaf"), "\\xFF\\xC0\\xAF");      // not UTF-8, overlong
  EXPECT_EQ(html("\xed\xa0\x80"), "\\xED\\xA0\\x80");      // surrogate
  EXPECT_EQ(html("abc\xe2\x82"), "abc\\xE2\\x82");         // cut short
  EXPECT_EQ(html("a\u202egnp.exe"), "a\\u{202E}gnp.exe");  // text that reads backwards
  EXPECT_EQ(html("caf\u00e9 \u6a39 \U0001F333\n\t."), "caf\u00e9 \u6a39 \U0001F333\n\t.");
}

TEST(ReportText, ShortensByColumns) {
  EXPECT_EQ(shorten("grep -l thorn", 20), "grep -l thorn");
  EXPECT_EQ(shorten("grep -l thorn", 8), "grep -l\u2026");
  EXPECT_EQ(shorten("one\ntwo\n", 20), "one \u21b5");
  EXPECT_EQ(shorten("\u6a39\u6a39\u6a39", 5), "\u6a39\u6a39\u2026");
  EXPECT_EQ(columns_of("a\u6a39"), 3u);
}

TEST(ReportText, Numbers) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(2811), "2,811");
  EXPECT_EQ(human_count(240600), "240.6 k");
  EXPECT_EQ(human_count(1432100), "1.43 M");
  EXPECT_EQ(exact_count(1234567), "1,234,567");
  EXPECT_EQ(exact_count(999), "999");
  EXPECT_EQ(human_seconds(65), "1 min 5 s");
  EXPECT_EQ(human_seconds(7380), "2 h 3 min");
  EXPECT_EQ(signed_number(-0.004), "0.00");
  EXPECT_EQ(signed_number(-0.12), "\u22120.12");
  EXPECT_EQ(percent(0.3541), "35.4 %");
}

TEST(ReportChart, TicksAreRoundAndCoverTheRange) {
  EXPECT_THAT(round_ticks(0, 1, 5),
              ::testing::ElementsAre(0, ::testing::DoubleEq(0.2), ::testing::DoubleEq(0.4),
                                     ::testing::DoubleEq(0.6000000000000001),
                                     ::testing::DoubleEq(0.8), ::testing::DoubleEq(1)));
  const auto ticks = round_ticks(-3, 17, 4);
  EXPECT_LE(ticks.front(), -3);
  EXPECT_GE(ticks.back(), 17);
}

TEST(ReportChart, LeavesOutWhatIsNotFiniteAndDrawsNothingFromNothing) {
  Series series;
  EXPECT_EQ(draw_chart({}, {series}), "");
  series.points = {{0, 1}, {1, std::nan("")}, {2, INFINITY}};
  const std::string svg = draw_chart({}, {series});
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  EXPECT_THAT(svg, Not(HasSubstr("inf")));
  EXPECT_EQ(count_of(svg, "<circle"),
            1u);  // a single point is marked: a line of one would not show
}

TEST(ReportChart, SmoothingKeepsAConstantAndTheMean) {
  std::vector<ChartPoint> flat;
  for (int i = 0; i < 100; ++i) flat.push_back({double(i), 0.5});
  for (const ChartPoint& point : smoothed(flat)) EXPECT_DOUBLE_EQ(point.y, 0.5);
  std::vector<ChartPoint> spike = flat;
  spike[50].y = 1.5;
  EXPECT_NEAR(smoothed(spike)[50].y, 0.5 + 1.0 / 11, 1e-12);
}

TEST(ReportTree, CardsNeverOverlap) {
  for (const tree::Tree& tree : {testing::forked_tree(1), testing::chain_tree(2)}) {
    const TreeLayout layout = lay_out(tree, 1000);
    ASSERT_EQ(layout.cards.size(), tree.nodes.size());
    for (size_t a = 0; a < layout.cards.size(); ++a) {
      const Card& one = layout.cards[a];
      EXPECT_GE(one.x, kTreeLeft + layout.prompt_width);
      EXPECT_LE(one.x + one.width, layout.width);
      EXPECT_LE(one.y + kCardHeight / 2, layout.height);
      EXPECT_LE(columns_of(one.output) + 2 + columns_of(one.advantage),
                (one.width - 2 * kCardPad) / kCharWidth + 1e-6);
      for (size_t b = a + 1; b < layout.cards.size(); ++b) {
        const Card& other = layout.cards[b];
        const bool apart = one.x + one.width < other.x || other.x + other.width < one.x ||
                           std::abs(one.y - other.y) >= kCardHeight;
        EXPECT_TRUE(apart) << tree.nodes[a].path << " and " << tree.nodes[b].path;
      }
    }
  }
}

TEST(ReportTree, ShowsCommandsOutputsRewardsAndAdvantages) {
  const tree::Tree tree = testing::forked_tree(1);
  const std::string svg = tree_svg(tree, {"t0", false});
  EXPECT_EQ(count_of(svg, "class=\"card\""), tree.nodes.size());
  EXPECT_EQ(count_of(svg, "<title>fork into 2 branches by online_entropy"), 2u);
  EXPECT_EQ(count_of(svg, "<title>reward "), tree.leaves().size() - 1);
  EXPECT_THAT(svg, HasSubstr(">cp yarrow out</text>"));
  EXPECT_THAT(svg, HasSubstr("basil:1"));
  EXPECT_THAT(svg, HasSubstr("infra_failed"));
  for (const tree::Node& node : tree.nodes)
    EXPECT_THAT(svg, HasSubstr(">" + signed_number(node.advantage) + "</text>"));
  const std::string turns = tree_turns(tree, "t0");
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    EXPECT_THAT(svg, HasSubstr("href=\"#t0-" + std::to_string(i) + "\""));
    EXPECT_THAT(turns, HasSubstr("id=\"t0-" + std::to_string(i) + "\""));
    EXPECT_THAT(turns, HasSubstr(tree.nodes[i].id.hex()));
  }
  EXPECT_THAT(tree_facts(tree), HasSubstr("8 roots, 2 forks (2 mixed), 10 episodes"));
}

TEST(ReportTree, LargeTreesAreCutAtWholeParents) {
  testing::TreeBuilder builder("nursery:chain/1/d4", "chain", "follow quartz", 1);
  for (int root = 0; root < 100; ++root) {
    int at = -1;
    for (int turn = 0; turn < 7; ++turn) at = builder.turn(at, "cat quartz", "goto cedar\n");
    builder.reward(at, root % 2);
  }
  const tree::Tree tree = builder.build();
  const std::string svg = tree_svg(tree, {"t", false});
  EXPECT_EQ(count_of(svg, "class=\"card\""), kMostTurnsShown);
  EXPECT_THAT(tree_turns(tree, "t"), HasSubstr("The first 400 of 700 turns"));
}

TEST(ReportTree, PromptsOfAnyShapeAreWrapped) {
  for (const std::string& prompt :
       {std::string(), std::string(40, ' '), std::string(100, 'x'), std::string("\n\n\t\n"),
        "word " + std::string(60, ' ') + "end",
        std::string("\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39\u6a39"),
        std::string(5000, '\n'),
        "Write the name of the file that holds the word opal to the file out.\n" +
            std::string(900, 'y')}) {
    tree::Tree tree;
    tree.prompt = prompt;
    const TreeLayout layout = lay_out(tree, 10);
    EXPECT_LE(layout.prompt_lines.size(), 8u);
    for (const std::string& line : layout.prompt_lines) {
      EXPECT_LE(columns_of(line), 20u) << prompt;
      EXPECT_EQ(line, printable(line));
    }
  }
  tree::Tree tree;
  tree.prompt = "find the word thorn here";
  EXPECT_THAT(lay_out(tree, 10).prompt_lines,
              ::testing::ElementsAre("find the word thorn", "here"));
}

TEST(ReportTree, InterestGoesToMixedForks) {
  testing::TreeBuilder same("nursery:find/1/d1", "find", "find thorn", 1);
  for (int root = 0; root < 8; ++root) same.reward(same.turn(-1, "exit", ""), 0);
  EXPECT_GT(tree_interest(testing::forked_tree(1)), tree_interest(same.build()));
  EXPECT_EQ(tree_interest(tree::Tree{}), 0);
}

class ReportPage : public ::testing::Test {
 protected:
  common::TempDir dir_{"espalier-report"};
};

TEST_F(ReportPage, OneFileNothingFromElsewhereNoScript) {
  const auto run = testing::write_synthetic_run(dir_.path() / "quickstart");
  write_report({run}, run / "report.html");
  const std::string page = common::read_file(run / "report.html");
  EXPECT_THAT(page, HasSubstr("<html lang=\"en\">"));
  EXPECT_THAT(page, HasSubstr("<title>Espalier: quickstart</title>"));
  EXPECT_THAT(page, HasSubstr("Content-Security-Policy"));
  for (const char* foreign :
       {"<script", "<link", "<img", "<iframe", "http://", "https://", "url(", "@import", " src="})
    EXPECT_THAT(page, Not(HasSubstr(foreign)));
  EXPECT_FALSE(std::regex_search(page, std::regex("<[^>]* on[a-z]+=")));
  EXPECT_EQ(first_unbalanced(page), "");
}

TEST_F(ReportPage, TellsTheVerdictTheLedgerAndTheTrees) {
  const auto run = testing::write_synthetic_run(dir_.path() / "quickstart");
  const RunData data = load_run(run);
  EXPECT_TRUE(data.finished());
  EXPECT_EQ(data.seed, 7u);
  EXPECT_EQ(data.rows.size(), 61u);
  EXPECT_TRUE(data.notes.empty()) << data.notes.front();
  ASSERT_EQ(data.trees.size(), 2u);  // one early, one late, of different families
  EXPECT_NE(data.trees[0].tree.family, data.trees[1].tree.family);
  EXPECT_EQ(data.outcomes.at("rewarded"), 28u);
  EXPECT_EQ(data.outcomes.at("infra_failed"), 2u);
  const std::string page = report_page({data});
  EXPECT_THAT(page, HasSubstr("35.0 \u2192 68.4 %"));
  EXPECT_THAT(page, HasSubstr("55.0 \u2192 79.0 %"));
  EXPECT_THAT(page, HasSubstr("+33.4"));
  EXPECT_THAT(page, HasSubstr("240.6 k <small>240,600</small>"));
  EXPECT_THAT(page, HasSubstr("58.8 %"));       // 730000 / (730000 + 512345)
  EXPECT_THAT(page, HasSubstr("1.59 \u00d7"));  // 1432100 / 901234
  EXPECT_THAT(page, HasSubstr("<td>perm</td>"));
  EXPECT_EQ(count_of(page, "<svg class=\"tree\""), 2u);
  EXPECT_EQ(count_of(page, "Policy entropy"), 1u + 1u);  // caption and accessible name
}

TEST_F(ReportPage, HostileOutputStaysText) {
  const std::string hostile =
      "</pre></svg><script>alert(1)</script>\x1b[2J\xff\" onload='x'><img "
      "src=//evil>\n]]>--><style>*{}</style>";
  const auto run = testing::write_synthetic_run(dir_.path() / "quickstart", {7, 60, true, hostile});
  std::ofstream(run / "config.yaml") << "name: <script>alert(2)</script>\n";
  write_report({run}, run / "report.html");
  const std::string page = common::read_file(run / "report.html");
  EXPECT_THAT(page, Not(HasSubstr("<script")));
  EXPECT_THAT(page, Not(HasSubstr("<img")));
  EXPECT_EQ(count_of(page, "<style>"), 1u);
  EXPECT_EQ(page.find('\x1b'), page.npos);
  EXPECT_EQ(page.find('\xff'), page.npos);
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(1)&lt;/script&gt;\u241b[2J\\xFF&quot;"));
  EXPECT_EQ(first_unbalanced(page), "");
}

TEST_F(ReportPage, UnfinishedRunSaysSoAndShowsWhatIsThere) {
  const auto run = testing::write_synthetic_run(dir_.path() / "open", {9, 23, false});
  std::ofstream(run / "metrics.jsonl", std::ios::app) << "{\"step\":24,\"critic/sc";  // a torn line
  const RunData data = load_run(run);
  EXPECT_FALSE(data.finished());
  EXPECT_EQ(data.rows.back().step, 23u);
  ASSERT_EQ(data.notes.size(), 1u);
  EXPECT_THAT(data.notes[0], HasSubstr("1 unreadable line"));
  const std::string page = report_page({data});
  EXPECT_THAT(page, HasSubstr("This run is not finished"));
  EXPECT_THAT(page, HasSubstr("Learning curves"));
  EXPECT_THAT(page, HasSubstr("92.23 k"));  // generated tokens of the last step, in the ledger
}

TEST_F(ReportPage, DamagedPartsBecomeNotes) {
  const auto run = testing::write_synthetic_run(dir_.path() / "damaged");
  std::ofstream(tree::shard_path(run, 1), std::ios::trunc) << "not HDF5";
  std::ofstream(run / "summary.json", std::ios::trunc) << "{\"eval\": ";
  const RunData data = load_run(run);
  EXPECT_FALSE(data.finished());
  EXPECT_EQ(data.shards, 2u);
  EXPECT_EQ(data.shards_read, 1u);
  EXPECT_EQ(data.notes.size(), 2u);
  EXPECT_EQ(first_unbalanced(report_page({data})), "");
}

TEST_F(ReportPage, SummaryOfOtherTypesDoesNotBreakIt) {
  const auto run = testing::write_synthetic_run(dir_.path() / "odd");
  std::ofstream(run / "summary.json", std::ios::trunc)
      << R"({"name":5,"seed":-1,"eval":{"before":null,"after":[1]},"budget":"none","wall_s":{"total":"x"},"model":[]})";
  EXPECT_EQ(first_unbalanced(report_page({load_run(run)})), "");
  std::ofstream(run / "summary.json", std::ios::trunc)
      << R"({"eval":{"before":{"by_family":{"":{"mean":0.5},"find":0.25}},"after":{"by_family":7}},"budget":{"new_unit":12}})";
  const std::string page = report_page({load_run(run)});
  EXPECT_THAT(page, HasSubstr("<td>find</td>"));
  EXPECT_THAT(page, HasSubstr("new_unit"));
}

TEST_F(ReportPage, SeveralRunsAreOverlaidAndCompared) {
  const auto tree = testing::write_synthetic_run(dir_.path() / "tree");
  const auto linear = testing::write_synthetic_run(dir_.path() / "linear", {8, 60});
  auto summary = nlohmann::json::parse(common::read_file(linear / "summary.json"));
  summary["budget"]["generated_tokens"] = 481200;
  common::write_file_atomically(linear / "summary.json", summary.dump());
  const std::string page = report_page({load_run(tree), load_run(linear)});
  EXPECT_THAT(page, HasSubstr("<title>Espalier: tree, linear</title>"));
  EXPECT_THAT(page, HasSubstr("linear: held-out success, greedy"));
  EXPECT_THAT(page, HasSubstr("2.00 \u00d7"));
  EXPECT_EQ(first_unbalanced(page), "");
}

TEST_F(ReportPage, PictureOfATreeIsAFileOfItsOwn) {
  const auto run = testing::write_synthetic_run(dir_.path() / "quickstart");
  write_tree_picture(run, dir_.path() / "tree.svg");
  const std::string svg = common::read_file(dir_.path() / "tree.svg");
  EXPECT_THAT(svg, ::testing::StartsWith("<svg"));
  EXPECT_THAT(svg, HasSubstr("xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme"));
  EXPECT_EQ(first_unbalanced(svg), "");
}

TEST_F(ReportPage, WhatIsNoRunIsAnError) {
  EXPECT_THROW(write_report({dir_.path() / "absent"}, dir_.path() / "x.html"), common::ConfigError);
  std::filesystem::create_directory(dir_.path() / "empty");
  try {
    write_report({dir_.path() / "empty"}, dir_.path() / "x.html");
    FAIL() << "an empty directory was taken for a run";
  } catch (const common::ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("holds none of metrics.jsonl"));
  }
  EXPECT_FALSE(std::filesystem::exists(dir_.path() / "x.html"));
}

TEST_F(ReportPage, CommandWritesBesideTheRun) {
  const auto run = testing::write_synthetic_run(dir_.path() / "quickstart");
  CLI::App app;
  int exit_code = -1;
  add_report_command(app, exit_code);
  app.parse("report " + run.string() + " --tree-svg " + (dir_.path() / "tree.svg").string());
  EXPECT_EQ(exit_code, common::kExitOk);
  EXPECT_TRUE(std::filesystem::exists(run / "report.html"));
  EXPECT_TRUE(std::filesystem::exists(dir_.path() / "tree.svg"));
}

}  // namespace
}  // namespace espalier::app
