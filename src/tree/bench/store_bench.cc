#include "tree/bench/store_bench.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

#include "common/error.h"
#include "common/rng.h"
#include "tree/journal.h"
#include "tree/run_trees.h"
#include "tree/store.h"
#include "tree/verify.h"

namespace espalier::tree {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kTenths = 10;
constexpr size_t kEventTextBytes = 232;  // makes a record of 300 bytes
constexpr int kActionTokens = 256;
constexpr size_t kTextBytes = 2048;
constexpr uint64_t kTreesAShard = 256;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double resident_mb() {
  std::ifstream file("/proc/self/statm");
  double total = 0, resident = 0;
  file >> total >> resident;
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

void progress(const StoreBench& bench, const std::string& text) {
  if (bench.on_progress && !bench.on_progress(text)) throw common::Cancelled("bench store");
}

/// Words of a terminal's output, so that it compresses as that does.
std::string output_text(common::Rng& rng, size_t bytes) {
  static constexpr const char* kWords[] = {
      "total", "drwxr-xr-x", "root", "error:", "src/main.c", "build", "-rw-r--r--", "passed",
      "in",    "file",       "4096", "line",   "test",       "ok",    "warning:",   "Makefile"};
  std::string text;
  while (text.size() < bytes) {
    text += kWords[rng.range(0, std::size(kWords) - 1)];
    text += rng.range(0, 7) == 0 ? "\n" : " ";
    if (rng.range(0, 3) == 0) text += std::to_string(rng.range(0, 99999)) + " ";
  }
  text.resize(bytes);
  return text;
}

/// A turn as a policy of 150,000 tokens makes it: most tokens are nearly certain, ids follow Zipf.
Node turn_node(common::Rng& rng, int tokens, size_t text_bytes) {
  Node node;
  for (int i = 0; i < tokens; ++i) {
    node.action.push_back(static_cast<Token>(std::pow(150000.0, rng.uniform())));
    node.log_probs.push_back(static_cast<float>(-std::exp(-10 * rng.uniform())));
    node.entropies.push_back(static_cast<float>(std::exp(-8 * rng.uniform())));
    node.loss_mask.push_back(1);
  }
  node.first_entropy = node.entropies.front();
  node.sampling_key = rng.next();
  node.command = output_text(rng, text_bytes / 8);
  node.observation = output_text(rng, text_bytes - text_bytes / 8);
  node.command_state = CommandState::answered;
  return node;
}

struct TreeShape {
  int turns = 8;
  int tokens = kActionTokens;
  size_t text_bytes = kTextBytes;
};

Tree bench_tree(uint64_t index, const TreeShape& shape) {
  common::Rng rng(common::derive_key(index, "bench", "store"));
  Tree tree;
  tree.task = "bench:" + std::to_string(index);
  tree.index = index;
  tree.step = index / kTreesAShard;
  tree.prompt = "do it";
  tree.prompt_tokens = {1, 2, 3};
  tree.id = prompt_id(tree);
  for (int turn = 0; turn < shape.turns; ++turn) {
    Node node = turn_node(rng, shape.tokens, shape.text_bytes);
    node.parent = turn - 1;
    node.turn = turn;
    node.path = turn == 0 ? root_path(0) : child_path(tree.nodes.back().path, turn, 0, false);
    node.id = node_id(turn == 0 ? tree.id : tree.nodes.back().id, node);
    tree.nodes.push_back(std::move(node));
  }
  tree.nodes.back().outcome = Outcome::rewarded;
  tree.nodes.back().reward = static_cast<double>(rng.range(0, 1));
  return tree;
}

/// What the farm appends for a tree of one episode.
void append_tree(JournalWriter& journal, const Tree& tree) {
  Event event;
  event.tree_index = tree.index;
  event.type = EventType::tree_started;
  event.node = tree.id;
  event.header = tree;
  event.header.nodes.clear();
  journal.append(event);
  event.header = {};
  for (const Node& node : tree.nodes) {
    event.node = node.id;
    event.path = node.path;
    event.time_us = 1'700'000'000'000'000;
    event.type = EventType::turn;
    event.parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    event.payload = node;
    event.payload.observation.clear();
    journal.append(event);
    event.parent = {};
    event.payload = {};
    event.type = EventType::command;
    journal.append(event);
    event.type = EventType::observation;
    event.payload.observation = node.observation;
    journal.append(event);
  }
  event.type = EventType::outcome;
  event.payload = {};
  event.payload.outcome = tree.nodes.back().outcome;
  event.payload.reward = tree.nodes.back().reward;
  journal.append(event);
  event.type = EventType::tree_sealed;
  event.node = tree.id;
  journal.append(event);
}

uint64_t bytes_in(const fs::path& directory, const std::string& extension) {
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory))
    if (entry.path().extension() == extension) bytes += entry.file_size();
  return bytes;
}

void bench_append(const StoreBench& bench, StoreFigures& figures) {
  const fs::path directory = bench.directory / "append";
  Event event;
  event.type = EventType::observation;
  event.path = "r0/t1";
  event.time_us = 1'700'000'000'000'000;
  event.node.bytes.fill(7);
  event.payload.observation.assign(kEventTextBytes, 'x');
  const double before_mb = resident_mb();
  double tenth_s[kTenths] = {}, total_s = 0;
  {
    JournalWriter journal(directory, Durability::batch);
    for (uint64_t tenth = 0; tenth < kTenths; ++tenth) {
      progress(bench, "append " + std::to_string(tenth) + "/10");
      const auto start = Clock::now();
      for (uint64_t i = 0; i < bench.events / kTenths; ++i) {
        event.tree_index = 100 + i % 28;
        journal.append(event);
      }
      tenth_s[tenth] = seconds_since(start);
      figures.writer_peak_mb = std::max(figures.writer_peak_mb, resident_mb() - before_mb);
      total_s += tenth_s[tenth];
    }
    const auto start = Clock::now();
    journal.flush();
    total_s += seconds_since(start);
  }
  figures.append_events_per_s = static_cast<double>(bench.events / kTenths * kTenths) / total_s;
  figures.flatness = tenth_s[kTenths - 1] / tenth_s[0];
  fs::remove_all(directory);
}

void bench_bytes(const StoreBench& bench, StoreFigures& figures) {
  constexpr uint64_t kTrees = 64;
  const fs::path run = bench.directory / "bytes";
  const TreeShape shape;
  std::vector<Tree> trees;
  for (uint64_t index = 0; index < kTrees; ++index) trees.push_back(bench_tree(index, shape));
  {
    JournalWriter journal(run / "journal", Durability::none);
    for (const Tree& tree : trees) append_tree(journal, tree);
  }
  write_trees(shard_path(run, 0), trees);
  constexpr double kArrays = sizeof(Token) + sizeof(float) + sizeof(float) + sizeof(uint8_t);
  figures.raw_bytes_per_turn = kActionTokens * kArrays + static_cast<double>(kTextBytes);
  const double raw = figures.raw_bytes_per_turn * static_cast<double>(kTrees) * shape.turns;
  figures.journal_bytes_ratio = static_cast<double>(bytes_in(run / "journal", ".log")) / raw;
  figures.store_bytes_ratio = static_cast<double>(bytes_in(run / "trees", ".h5")) / raw;
  fs::remove_all(run);
}

void bench_verify(const StoreBench& bench, StoreFigures& figures) {
  const fs::path directory = bench.directory / "verify";
  uint64_t bytes = 0;
  std::vector<Tree> trees;
  for (uint64_t index = 0; index < 64; ++index) trees.push_back(bench_tree(index, {}));
  {
    JournalWriter journal(directory, Durability::none);
    for (uint64_t round = 0; bytes < bench.verify_bytes; ++round) {
      if (round % 4 == 0) progress(bench, "journal to verify");
      for (const Tree& tree : trees) append_tree(journal, tree);
      journal.flush();
      bytes = bytes_in(directory, ".log");
    }
  }
  progress(bench, "verify");
  const auto start = Clock::now();
  Verification verification;
  verify_journal(directory, verification);
  if (!verification.problem.empty()) throw common::StoreError("verify: " + verification.problem);
  figures.verify_mb_per_s =
      static_cast<double>(verification.journal_bytes) / 1e6 / seconds_since(start);
  fs::remove_all(directory);
}

void bench_open(const StoreBench& bench, StoreFigures& figures) {
  const fs::path run = bench.directory / "open";
  std::vector<NodeId> ids;
  for (uint64_t first = 0; first < bench.trees; first += kTreesAShard) {
    progress(bench, "tree " + std::to_string(first));
    std::vector<Tree> trees;
    for (uint64_t i = first; i < std::min(first + kTreesAShard, bench.trees); ++i)
      trees.push_back(bench_tree(i, {.turns = 4, .tokens = 16, .text_bytes = 128}));
    for (const Tree& tree : trees) ids.push_back(tree.id);
    write_trees(shard_path(run, first / kTreesAShard), trees);
  }
  common::Rng rng(common::derive_key(1, "bench", "open"));
  for (int i = 0; i < bench.opens; ++i) {
    const NodeId& id = ids[static_cast<size_t>(rng.range(0, static_cast<int64_t>(ids.size()) - 1))];
    const auto start = Clock::now();
    const RunTree tree = find_tree(run, id);
    figures.open_tree_ms.push_back(1e3 * seconds_since(start));
    if (tree.tree.id != id) throw common::StoreError("open tree: not the one asked for");
  }
  fs::remove_all(run);
}

}  // namespace

StoreFigures bench_store(const StoreBench& bench) {
  StoreFigures figures;
  bench_append(bench, figures);
  bench_bytes(bench, figures);
  bench_verify(bench, figures);
  bench_open(bench, figures);
  return figures;
}

}  // namespace espalier::tree
