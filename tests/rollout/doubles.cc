#include "rollout/doubles.h"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "common/sha256.h"

namespace espalier::rollout::testing {

using envs::EnvironmentPtr;
using policy::GenerateRequest;
using policy::Generation;
using policy::Prefilled;

DelayedThread::DelayedThread(uint64_t seed, int max_delay_us)
    : random_(seed), max_delay_us_(max_delay_us), thread_([this] { loop(); }) {}

DelayedThread::~DelayedThread() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void DelayedThread::post(std::function<void()> function) {
  std::lock_guard lock(mutex_);
  const auto delay = max_delay_us_ > 0 ? random_() % max_delay_us_ : 0;
  items_.push(Item{std::chrono::steady_clock::now() + std::chrono::microseconds(delay), next_++,
                   std::move(function)});
  changed_.notify_all();
}

void DelayedThread::loop() {
  std::unique_lock lock(mutex_);
  while (!closed_ || !items_.empty()) {
    if (items_.empty()) {
      changed_.wait(lock);
    } else if (const Time due = items_.top().time; due > std::chrono::steady_clock::now()) {
      changed_.wait_until(lock, due);
    } else {
      auto function = items_.top().function;
      items_.pop();
      lock.unlock();
      function();
      lock.lock();
    }
  }
}

namespace {

class FakeEnvironment : public envs::Environment {
 public:
  FakeEnvironment(std::shared_ptr<World> world, std::vector<std::string> commands)
      : world_(std::move(world)), commands_(std::move(commands)) {
    const int live = ++world_->live;
    int most = world_->most_live;
    while (live > most && !world_->most_live.compare_exchange_weak(most, live)) {
    }
  }
  ~FakeEnvironment() override { --world_->live; }

  void run(std::string command, envs::Deadline, envs::Completion<envs::Observation> done) override {
    perform<envs::Observation>("run", command, std::move(done), [this, command] {
      ++world_->runs;
      commands_.push_back(command);
      return answer(command);
    });
  }

  void fork(envs::Completion<envs::Fork> done) override {
    perform<envs::Fork>("fork", last(), std::move(done), [this] {
      if (ran("bg")) throw common::NotForkable("fork: a background process runs");
      return envs::Fork{std::make_unique<FakeEnvironment>(world_, commands_), envs::ForkKind::live,
                        7};
    });
  }

  void snapshot(envs::Completion<envs::SnapshotId> done) override {
    perform<envs::SnapshotId>("snapshot", last(), std::move(done), [this] {
      std::string all;
      for (const std::string& command : commands_) all += command + "\n";
      const common::Digest digest = common::sha256(all);
      const std::string hex = common::to_hex(digest.data(), digest.size());
      std::lock_guard lock(world_->mutex);
      world_->snapshots[hex] = commands_;
      return envs::SnapshotId{hex};
    });
  }

  void exec(envs::ExecSpec spec, envs::Deadline,
            envs::Completion<envs::Observation> done) override {
    perform<envs::Observation>("exec", last(), std::move(done), [this, spec] {
      if (auto key = spec.variables.find("ESPALIER_EPISODE_KEY"); key != spec.variables.end()) {
        std::lock_guard lock(world_->mutex);
        world_->episode_keys.emplace(key->second, commands_);
        verified_ = true;
      }
      return envs::Observation{};
    });
  }

  void put_file(std::string path, std::string, unsigned,
                envs::Completion<common::Done> done) override {
    world_->thread.post([done = std::move(done)] { done(common::Done{}); });
  }

  void put_tree(std::string, const std::filesystem::path&,
                envs::Completion<common::Done> done) override {
    world_->thread.post([done = std::move(done)] { done(common::Done{}); });
  }

  std::optional<std::string> read_file(const std::string& path, size_t) override {
    if (path != "/logs/verifier/reward.txt" || !verified_ || !world_->writes_reward)
      return std::nullopt;
    return ran("win") ? "1\n" : "0\n";
  }

 private:
  template <class T, class Function>
  void perform(const std::string& operation, const std::string& detail, envs::Completion<T> done,
               Function function) {
    world_->thread.post([this, operation, detail, done = std::move(done), function] {
      common::Result<T> result = [&]() -> common::Result<T> {
        try {
          if (world_->fault) world_->fault(operation, detail);
          return function();
        } catch (...) {
          return std::current_exception();
        }
      }();
      done(std::move(result));
    });
  }

  bool ran(const std::string& command) const {
    return std::find(commands_.begin(), commands_.end(), command) != commands_.end();
  }
  std::string last() const { return commands_.empty() ? "" : commands_.back(); }

  envs::Observation answer(const std::string& command) {
    envs::Observation seen;
    seen.duration_us = 1000;
    seen.output = command + " " + std::to_string(commands_.size()) + "\n";
    if (command == "quiet") seen.output.clear();
    if (command == "lines") seen.output = "one\ntwo\n\n";
    if (command == "flaky") seen.output = std::to_string(world_->runs) + "\n";
    if (command == "syntax")
      seen.output = "bash: eval: line " + std::to_string(world_->runs) + ": syntax error\n";
    if (command == "die") seen.shell_exited = true;
    if (command == "slow") seen.timed_out = true, seen.exit_code = 137;
    if (command == "long") {
      seen.output.clear();
      for (int i = 0; i < 200; ++i) seen.output += "word ";
    }
    return seen;
  }

  std::shared_ptr<World> world_;
  std::vector<std::string> commands_;
  bool verified_ = false;
};

/// What an engine would keep with a context.
struct Marker : policy::ContextCache {};

void account(const policy::ContextPtr& context, uint64_t version, size_t& computed,
             size_t& cached) {
  for (const policy::Context* at = context.get(); at; at = at->parent().get()) {
    if (at->cache && at->cache->policy_version == version) {
      cached += at->length();
      return;
    }
    computed += at->tokens().size();
    at->cache = std::make_shared<Marker>();
    at->cache->policy_version = version;
  }
}

uint64_t hash_tokens(const policy::ContextPtr& context) {
  uint64_t hash = 0;
  for (const policy::Context* at = context.get(); at; at = at->parent().get())
    for (auto token = at->tokens().rbegin(); token != at->tokens().rend(); ++token)
      hash = hash * 1099511628211ULL + static_cast<uint64_t>(*token) + 1;
  return hash;
}

}  // namespace

void FakeBackend::create(envs::EnvironmentSpec, envs::Completion<EnvironmentPtr> done) {
  world_->thread.post([world = world_, done = std::move(done)] {
    common::Result<EnvironmentPtr> result = [&]() -> common::Result<EnvironmentPtr> {
      try {
        if (world->fault) world->fault("create", "");
        ++world->created;
        return EnvironmentPtr(std::make_unique<FakeEnvironment>(world, std::vector<std::string>{}));
      } catch (...) {
        return std::current_exception();
      }
    }();
    done(std::move(result));
  });
}

void FakeBackend::open(envs::SnapshotId snapshot, envs::Completion<EnvironmentPtr> done) {
  world_->thread.post([world = world_, snapshot, done = std::move(done)] {
    ++world->opened;
    std::vector<std::string> commands;
    {
      std::lock_guard lock(world->mutex);
      commands = world->snapshots.at(snapshot.hex);
    }
    done(EnvironmentPtr(std::make_unique<FakeEnvironment>(world, commands)));
  });
}

FakePolicy::FakePolicy(policy::TokenizerPtr tokenizer, FakePolicyOptions options)
    : tokenizer_(std::move(tokenizer)),
      options_(std::move(options)),
      random_(options_.delay_seed),
      thread_([this] { loop(); }) {}

FakePolicy::~FakePolicy() {
  close();
  thread_.join();
}

void FakePolicy::close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

void FakePolicy::generate(GenerateRequest request, common::Completion<Generation> done) {
  submit({std::move(request), std::move(done)});
}

void FakePolicy::prefill(GenerateRequest request, common::Completion<Prefilled> done) {
  submit({std::move(request), std::move(done)});
}

namespace {

void refuse(auto& waiting) {
  auto error = std::make_exception_ptr(common::Cancelled("the policy is closed"));
  std::visit([&](auto& done) { done(error); }, waiting.done);
}

}  // namespace

void FakePolicy::submit(Waiting waiting) {
  std::unique_lock lock(mutex_);
  if (closed_) {
    lock.unlock();
    return refuse(waiting);
  }
  waiting_.push_back(std::move(waiting));
  changed_.notify_all();
}

void FakePolicy::join(size_t participants) {
  std::lock_guard lock(mutex_);
  participants_ += participants;
}

void FakePolicy::leave(size_t participants) {
  std::lock_guard lock(mutex_);
  ESPALIER_CHECK(participants_ >= participants, "more left than joined");
  participants_ -= participants;
  changed_.notify_all();
}

size_t FakePolicy::participants() const {
  std::lock_guard lock(mutex_);
  return participants_;
}

bool FakePolicy::ready() const {
  if (waiting_.empty()) return false;
  return closed_ || !options_.lockstep || waiting_.size() >= participants_;
}

void FakePolicy::loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return ready() || closed_; });
    if (waiting_.empty() && closed_) return;
    ESPALIER_CHECK(!options_.lockstep || waiting_.size() <= participants_,
                   "a request of nobody who joined");
    std::vector<Waiting> round = std::exchange(waiting_, {});
    largest_round_ = std::max<size_t>(largest_round_, round.size());
    ++rounds_;
    const bool closed = closed_;
    lock.unlock();
    std::sort(round.begin(), round.end(),
              [](const Waiting& a, const Waiting& b) { return a.request.order < b.request.order; });
    uint64_t signature = 17;
    if (options_.lockstep)
      for (const Waiting& waiting : round)
        signature = signature * 1099511628211ULL + waiting.request.order;
    if (options_.max_delay_us > 0)
      std::this_thread::sleep_for(std::chrono::microseconds(random_() % options_.max_delay_us));
    for (Waiting& waiting : round) {
      if (closed) {
        refuse(waiting);
      } else {
        serve(waiting, signature);
      }
    }
    round.clear();
    lock.lock();
  }
}

void FakePolicy::serve(Waiting& waiting, uint64_t signature) {
  const GenerateRequest& request = waiting.request;
  const bool generates = waiting.done.index() == 0;
  try {
    if (options_.fault) options_.fault(request, generates);
  } catch (...) {
    std::visit([&](auto& done) { done(std::current_exception()); }, waiting.done);
    return;
  }
  const double noise = 1e-3 * common::uniform({signature}, 0);
  if (!generates) {
    Prefilled prefilled;
    account(request.context, version_, prefilled.prefill_tokens, prefilled.cached_tokens);
    prefilled.first_entropy = common::uniform({hash_tokens(request.context)}, 1) + noise;
    std::get<1>(waiting.done)(prefilled);
    return;
  }
  Generation generation;
  account(request.context, version_, generation.prefill_tokens, generation.cached_tokens);
  const auto& commands = options_.commands;
  const auto choice =
      static_cast<size_t>(common::uniform(request.key, 0) * static_cast<double>(commands.size()));
  generation.tokens = tokenizer_->encode(commands[choice] + "\n");
  const auto limit = static_cast<size_t>(request.sampling.max_new_tokens);
  if (generation.tokens.size() > limit) {
    generation.tokens.resize(limit);
    generation.stop = policy::StopReason::max_tokens;
  }
  for (size_t i = 0; i < generation.tokens.size(); ++i) {
    generation.log_probs.push_back(static_cast<float>(-common::uniform(request.key, i) - noise));
    generation.entropies.push_back(
        static_cast<float>(common::uniform(request.key, 99 + i) + noise));
  }
  generation.policy_version = version_;
  generation.context = policy::Context::extend(request.context, generation.tokens);
  generation.context->cache = std::make_shared<Marker>();
  generation.context->cache->policy_version = version_;
  std::get<0>(waiting.done)(std::move(generation));
}

Stage::Stage(FakePolicyOptions policy_options, uint64_t delay_seed, int max_delay_us)
    : tokenizer(policy::Tokenizer::from_pieces({"look", "win", "quiet", "exit", "word "})),
      world(std::make_shared<World>(delay_seed, max_delay_us)),
      backend(world),
      policy(tokenizer, policy_options),
      task(std::make_shared<envs::Task>()) {
  common::write_file_atomically(directory.path() / "test.sh", "#!/bin/sh\n");
  task->name = "fake";
  task->instruction = "do it\n";
  task->max_turns = 6;
  task->metadata["family"] = "double";
  task->verifier.tests = directory.path();
  options.deterministic = policy_options.lockstep;
  options.workers = 2;
  parts.backend = &backend;
  parts.policy = &policy;
  parts.tokenizer = tokenizer;
}

std::unique_ptr<Farm> Stage::make_farm() { return std::make_unique<Farm>(parts, options); }

std::vector<TreeRequest> Stage::requests(int trees, int roots) const {
  std::vector<TreeRequest> requests;
  for (int i = 0; i < trees; ++i) {
    TreeRequest request;
    request.task = task;
    request.index = static_cast<uint64_t>(i);
    request.roots = roots;
    requests.push_back(std::move(request));
  }
  return requests;
}

std::vector<tree::Tree> Stage::run(int trees, int roots) {
  return roll_out(*make_farm(), requests(trees, roots));
}

namespace {

template <class T>
void print(std::ostringstream& out, const std::vector<T>& values) {
  out << '['
      << common::to_hex(reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T))
      << ']';
}

}  // namespace

std::string dump(const tree::Tree& tree) {
  std::ostringstream out;
  out << tree.task << ' ' << tree.family << ' ' << tree.index << ' ' << tree.step << ' '
      << tree.run_seed << ' ' << tree.id.hex() << ' ' << tree.prompt;
  print(out, tree.prompt_tokens);
  for (const tree::Node& node : tree.nodes) {
    out << '\n'
        << node.id.hex() << ' ' << node.parent << ' ' << node.branch << ' ' << node.turn << ' '
        << node.path;
    print(out, node.prompt_delta);
    print(out, node.action);
    print(out, node.log_probs);
    print(out, node.entropies);
    print(out, node.loss_mask);
    print(out, std::vector<float>{node.first_entropy});
    out << node.policy_version << ' ' << node.sampling_key << ' ' << node.command << '|'
        << node.observation << '|' << node.exit_code << node.timed_out << ' '
        << to_string(node.fork_origin) << ' ' << node.fork_rule << ' ' << node.snapshot << ' '
        << to_string(node.outcome) << ' ' << node.reward.value_or(-1) << ' ' << node.failure;
  }
  return out.str();
}

std::string dump(const std::vector<tree::Tree>& trees) {
  std::string all;
  for (const tree::Tree& tree : trees) all += dump(tree) + "\n\n";
  return all;
}

int count_leaves(const tree::Tree& tree, tree::Outcome outcome) {
  int count = 0;
  for (int leaf : tree.leaves()) count += tree.nodes[leaf].outcome == outcome ? 1 : 0;
  return count;
}

std::vector<policy::Token> path_tokens(const tree::Tree& tree, int node) {
  std::vector<policy::Token> tokens;
  const tree::Node& last = tree.nodes[node];
  tokens = last.parent < 0 ? tree.prompt_tokens : path_tokens(tree, last.parent);
  tokens.insert(tokens.end(), last.prompt_delta.begin(), last.prompt_delta.end());
  tokens.insert(tokens.end(), last.action.begin(), last.action.end());
  return tokens;
}

}  // namespace espalier::rollout::testing
