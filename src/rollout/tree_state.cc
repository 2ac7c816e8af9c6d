#include "rollout/tree_state.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <utility>

#include "rollout/branching.h"
#include "rollout/kept_nodes.h"

namespace espalier::rollout {

using tree::EventType;

TreeState::TreeState(Shared& shared, TreeRequest request, TreeQueue& out)
    : shared_(shared),
      request_(std::move(request)),
      stream_(request_.purpose + ":" + request_.task->name + "#" + std::to_string(request_.index)),
      out_(out),
      kept_(std::make_unique<KeptNodes>(shared.options.max_kept)),
      episodes_(request_.roots) {
  const envs::Task& task = *request_.task;
  tree_.task = task.name;
  if (auto family = task.metadata.find("family"); family != task.metadata.end())
    tree_.family = family->second;
  tree_.index = request_.index;
  tree_.step = request_.step;
  tree_.run_seed = shared.options.run_seed;
  tree_.prompt_tokens = shared.harness->prompt(task);
  tree_.prompt = shared.parts.tokenizer->decode(tree_.prompt_tokens);
  tree_.id = tree::prompt_id(tree_);
  prompt_context_ = policy::Context::root(tree_.prompt_tokens);
}

TreeState::~TreeState() = default;

common::RngKey TreeState::key(std::string_view path) const {
  return common::derive_key(shared_.options.run_seed, stream_, path);
}

uint64_t TreeState::order(std::string_view path) const {
  return common::derive_key(0, stream_, path).value;
}

void TreeState::started() {
  // Under the lock: no event of any root may come before this one.
  std::lock_guard lock(mutex_);
  if (started_.exchange(true)) return;
  tree::Event event;
  event.type = EventType::tree_started;
  event.node = tree_.id;
  event.header = tree_;
  append(std::move(event));
  for (const tree::Node& node : tree_.nodes) append_recorded(node);
}

/// A turn that was there before the tree was started (Continuation).
void TreeState::append_recorded(const tree::Node& node) {
  const NodeRef ref{-1, node.id, node.path};
  tree::Event event;
  event.type = EventType::turn;
  event.node = node.id;
  event.parent = node.parent < 0 ? tree_.id : tree_.nodes[node.parent].id;
  event.path = node.path;
  event.payload = node;
  event.payload.observation.clear();
  event.payload.snapshot.clear();
  append(std::move(event));
  if (node.command_state != tree::CommandState::none) journal(EventType::command, ref, {}, "");
  if (node.command_state != tree::CommandState::answered) return;
  tree::Node payload;
  payload.observation = node.observation;
  payload.exit_code = node.exit_code;
  payload.timed_out = node.timed_out;
  journal(EventType::observation, ref, std::move(payload), "");
  if (node.snapshot.empty()) return;
  tree::Node state;
  state.snapshot = node.snapshot;
  journal(EventType::snapshot, ref, std::move(state), "");
}

NodeRef TreeState::add_turn(const NodeRef& parent, std::string path, tree::Node node) {
  node.parent = parent.index;
  node.id = tree::node_id(parent.id, node);
  node.path = std::move(path);
  NodeRef ref{-1, node.id, node.path};
  tree::Event event;
  event.type = EventType::turn;
  event.node = node.id;
  event.parent = parent.id;
  event.path = node.path;
  event.payload = node;
  {
    std::lock_guard lock(mutex_);
    ref.index = static_cast<int>(tree_.nodes.size());
    tree_.nodes.push_back(std::move(node));
  }
  append(std::move(event));
  return ref;
}

void TreeState::episode_started(const std::string& path) {
  journal(EventType::episode_started, {-1, {}, path}, {}, "");
}

void TreeState::sending(const NodeRef& node) {
  {
    std::lock_guard lock(mutex_);
    tree_.nodes[node.index].command_state = tree::CommandState::sent;
  }
  journal(EventType::command, node, {}, "");
}

void TreeState::observed(const NodeRef& node, const envs::Observation& observation,
                         std::string shown) {
  tree::Node payload;
  payload.observation = std::move(shown);
  payload.exit_code = observation.exit_code;
  payload.timed_out = observation.timed_out;
  {
    std::lock_guard lock(mutex_);
    tree::Node& kept = tree_.nodes[node.index];
    kept.observation = payload.observation;
    kept.exit_code = payload.exit_code;
    kept.timed_out = payload.timed_out;
    kept.command_state = tree::CommandState::answered;
  }
  journal(EventType::observation, node, std::move(payload), "");
}

void TreeState::snapshot(const NodeRef& node, const std::string& snapshot) {
  tree::Node payload;
  payload.snapshot = snapshot;
  {
    std::lock_guard lock(mutex_);
    tree_.nodes[node.index].snapshot = snapshot;
  }
  journal(EventType::snapshot, node, std::move(payload), "");
}

void TreeState::forked(const NodeRef& node, bool made, std::string detail) {
  tree::Node payload;
  if (made) {
    payload.fork_rule = shared_.parts.rule->name();
    std::lock_guard lock(mutex_);
    tree_.nodes[node.index].fork_rule = payload.fork_rule;
  }
  journal(EventType::fork, node, std::move(payload), std::move(detail));
}

void TreeState::failed(const std::string& path, std::string detail) {
  // No node id: the failure is about an operation, its node may not exist and is not given up.
  journal(EventType::failure, {-1, {}, path}, {}, std::move(detail));
}

void TreeState::retrying(const std::string& path, std::string detail) {
  journal(EventType::retry, {-1, {}, path}, {}, std::move(detail));
}

envs::VerifierSpec TreeState::verifier(int root) const {
  const std::vector<int>& judged_as = request_.judged_as;
  if (!judged_as.empty()) root = judged_as.at(static_cast<size_t>(root));
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx",
                static_cast<unsigned long long>(key("r" + std::to_string(root)).value));
  envs::VerifierSpec spec = request_.task->verifier;
  spec.variables["ESPALIER_EPISODE_KEY"] = digits;
  return spec;
}

void TreeState::verifying(const NodeRef& node) { journal(EventType::verify, node, {}, ""); }

void TreeState::verified(const NodeRef& node, const envs::Verdict& verdict) {
  tree::Node payload;
  payload.reward = verdict.reward;
  payload.failure = verdict.failure;
  journal(EventType::verdict, node, std::move(payload), "");
}

void TreeState::ended(const NodeRef& node, tree::Outcome outcome, std::optional<double> reward,
                      std::string failure) {
  tree::Node payload;
  payload.outcome = outcome;
  payload.reward = reward;
  payload.failure = std::move(failure);
  {
    std::lock_guard lock(mutex_);
    tree::Node& leaf = tree_.nodes[node.index];
    leaf.outcome = payload.outcome;
    leaf.reward = payload.reward;
    leaf.failure = payload.failure;
    if (outcome == tree::Outcome::cancelled && shared_.cancelled) cut_short_ = true;
  }
  journal(EventType::outcome, node, std::move(payload), "");
}

void TreeState::open_episodes(int count) {
  std::lock_guard lock(mutex_);
  episodes_ += count;
}

void TreeState::close_episode() {
  {
    std::lock_guard lock(mutex_);
    if (--episodes_ > 0) return;
  }
  if (std::vector<BranchPoint> branches = look_back(); !branches.empty()) {
    open_episodes(static_cast<int>(branches.size()));
    return shared_.revisit(std::move(branches));
  }
  seal();
}

bool TreeState::may_branch_after_sampling() const {
  return shared_.parts.rule && shared_.parts.rule->decides_after_sampling() && request_.may_fork &&
         !request_.script;
}

bool TreeState::may_go_back() const {
  return shared_.parts.rule && shared_.parts.rule->looks_back() && request_.may_fork &&
         !request_.script;
}

void TreeState::remember(const NodeRef& node, const BranchPoint& stand, StepPtr history) {
  auto kept = std::make_unique<BranchPoint>();
  kept->root = stand.root;
  kept->parent = node;
  kept->turn = stand.turn;
  kept->context = stand.context;
  kept->delta = stand.delta;
  kept->used_seconds = stand.used_seconds;
  kept->history = std::move(history);
  std::lock_guard lock(mutex_);
  remembered_[node.path] = std::move(kept);
}

/// The last episode is over: nobody else touches the tree.
std::vector<BranchPoint> TreeState::look_back() {
  std::vector<BranchPoint> branches;
  if (!may_go_back() || shared_.cancelled || shared_.budget_exhausted()) return branches;
  tree::Tree seen = tree_;
  seen.canonicalise();  // the order of arrival must not show
  int made = 0;
  {
    std::lock_guard lock(shared_.rule_mutex);
    made = forks;
  }
  const tree::LookBack back = shared_.parts.rule->look_back(seen, made);
  shared_.spend(back.spend);
  for (const tree::BackFork& fork : back.forks) {
    auto made = branch_again(fork, seen.nodes.at(static_cast<size_t>(fork.node)));
    std::move(made.begin(), made.end(), std::back_inserter(branches));
  }
  return branches;
}

std::vector<BranchPoint> TreeState::branch_again(const tree::BackFork& fork,
                                                 const tree::Node& parent) {
  std::vector<BranchPoint> branches;
  const auto found = remembered_.find(parent.path);
  if (found == remembered_.end() || fork.branches < 1) return branches;
  const BranchPoint& stand = *found->second;
  int next = 0;
  double first_entropy = 0;
  for (const tree::Node& node : tree_.nodes) {
    if (node.parent != stand.parent.index) continue;
    next = std::max(next, node.branch + 1);
    if (!node.action.empty()) first_entropy = node.first_entropy;
  }
  {
    std::lock_guard lock(shared_.rule_mutex);
    ++forks;
  }
  for (int b = 0; b < fork.branches; ++b) {
    BranchPoint branch;
    branch.tree = shared_from_this();
    branch.root = stand.root;
    branch.parent = stand.parent;
    branch.turn = stand.turn;
    branch.branch = next + b;
    branch.forked = branch.late = true;
    branch.origin = tree::ForkOrigin::value;
    branch.context = stand.context;
    branch.delta = stand.delta;
    branch.history = stand.history;
    branch.used_seconds = stand.used_seconds;
    branch.first_entropy = first_entropy;
    branch.last_fork_turn = stand.turn;
    if (b == 0) branch.injected = fork.action;
    fork_kept(branch);
    branches.push_back(std::move(branch));
  }
  shared_.progress.forks += static_cast<uint64_t>(fork.branches);
  shared_.spend({.forks = static_cast<uint64_t>(fork.branches)});
  forked(stand.parent, true,
         text_of({{"rule", shared_.parts.rule->name()},
                  {"turn", stand.turn},
                  {"made", fork.branches},
                  {"children", kinds_of(branches)},
                  {"looked_back", true},
                  {"injected", fork.action},
                  {"reason", fork.reason}}));
  return branches;
}

/// Live where the node is kept; what fails leaves the branch to be made by value.
void TreeState::fork_kept(BranchPoint& branch) {
  KeptNode* kept = kept_->find(branch.parent.path);
  if (!kept) return;
  try {
    envs::Fork made = kept->session->fork();
    const bool by_value = kept->kind == envs::ForkKind::value;
    branch.origin = by_value ? tree::ForkOrigin::value : origin_of(made.kind);
    branch.environment = std::move(made.child);
    shared_.progress.fork_us += made.duration_us;
  } catch (const std::exception& error) {
    failed(branch.parent.path,
           text_of({{"operation", "fork a kept environment"}, {"reason", error.what()}}));
  }
  shared_.spend({.sandbox_seconds = kept->session->take_busy_seconds()});
}

void TreeState::seal() {
  // The last episode is over: nobody else touches the tree.
  tree_.canonicalise();
  prompt_context_.reset();
  remembered_.clear();
  kept_->clear();
  if (!cut_short_) {
    tree::Event event;
    event.type = EventType::tree_sealed;
    event.node = tree_.id;
    append(std::move(event));
  }
  ++shared_.progress.trees_sealed;
  out_.push(std::move(tree_));
}

void TreeState::journal(EventType type, const NodeRef& node, tree::Node payload, std::string text) {
  tree::Event event;
  event.type = type;
  event.node = node.id;
  event.path = node.path;
  event.payload = std::move(payload);
  event.text = std::move(text);
  append(std::move(event));
}

void TreeState::append(tree::Event event) {
  if (!shared_.parts.journal || !started_) return;
  event.tree_index = request_.index;
  event.time_us = std::chrono::duration_cast<std::chrono::microseconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  try {
    shared_.parts.journal->append(event);
  } catch (...) {
    shared_.fail(std::current_exception());
  }
}

}  // namespace espalier::rollout
