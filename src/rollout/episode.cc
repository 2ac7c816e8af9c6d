#include "rollout/episode.h"

#include <algorithm>

#include "common/error.h"
#include "rollout/branching.h"
#include "rollout/kept_nodes.h"
#include "rollout/suspend.h"

namespace espalier::rollout {
namespace {

using common::Completion;
using common::Result;
using policy::Generation;
using policy::Prefilled;

constexpr int kPolicyAttempts = 2;
constexpr const char* kStopping = "the run is being stopped";

/// How an episode ended.
struct Ending {
  tree::Outcome outcome = tree::Outcome::none;
  std::optional<double> reward;
  std::string failure;
};

/// Σ of the tokens before each of `count` tokens that follow `before` others.
uint64_t attended(uint64_t before, uint64_t count) {
  return count == 0 ? 0 : count * before + count * (count - 1) / 2;
}

class Episode {
 public:
  Episode(Shared& shared, BranchPoint start)
      : shared_(shared),
        tree_(*start.tree),
        task_(*tree_.request().task),
        at_(std::move(start)),
        session_(shared, tree_, std::move(at_.environment), std::move(at_.history)) {}

  Ending play() {
    if (tree_.request().script) script_ = tree_.request().script(at_.root);
    const int limit = shared_.options.max_turns;
    const int max_turns = limit > 0 ? std::min(limit, task_.max_turns) : task_.max_turns;
    tree_.episode_started(path());
    session_.open(path());
    while (at_.turn < max_turns) {
      if (auto ending = boundary()) return *ending;
      std::optional<Before> before;
      if (tree_.may_branch_after_sampling())
        before = Before{at_.parent, at_.turn, at_.branch, at_.context, at_.delta};
      sample();
      if (before) branch_beside(*before);
      if (action_.ends) break;
      if (auto ending = act()) return *ending;
      if (shell_exited_) break;
    }
    at_.participant.reset();  // the others need not wait for the verifier
    return verify();
  }

  void finish(Ending ending) {
    const bool has_leaf = at_.parent.index >= 0 && !at_.forked;
    if (!has_leaf) at_.parent = add_empty_node(at_, path());
    tree_.ended(at_.parent, ending.outcome, ending.reward, std::move(ending.failure));
    pending_.leaves += 1;
    pending_.sandbox_seconds += session_.take_busy_seconds();
    flush();
    at_.participant.reset();
  }

 private:
  /// Of the next node.
  std::string path() const {
    if (at_.parent.index < 0) return tree::root_path(at_.root);
    return tree::child_path(at_.parent.path, at_.turn, at_.branch, at_.forked);
  }

  void flush() { shared_.spend(std::exchange(pending_, {})); }

  /// An ending, or the next action may be sampled.
  std::optional<Ending> boundary() {
    const size_t needed = at_.context->length() + tree_.request().sampling.max_new_tokens;
    const policy::Policy* policy = shared_.parts.policy;
    if (policy && needed > policy->context_limit())
      return Ending{tree::Outcome::context_overflow, std::nullopt,
                    std::to_string(at_.context->length()) +
                        " tokens and an action exceed the context of " +
                        std::to_string(policy->context_limit())};
    Boundary boundary;
    if (script_) {
      boundary.stop = shared_.budget_exhausted();
    } else if (at_.first_entropy) {
      boundary.first_entropy = *at_.first_entropy;
      boundary.stop = at_.late && shared_.budget_exhausted();
    } else {
      boundary = look_ahead();
    }
    if (shared_.cancelled) return Ending{tree::Outcome::cancelled, std::nullopt, kStopping};
    if (boundary.stop) return Ending{tree::Outcome::cancelled, std::nullopt, "the budget is spent"};
    at_.first_entropy = boundary.first_entropy;
    if (boundary.keep) keep();
    if (boundary.branches > 1) fork(boundary);
    return std::nullopt;
  }

  policy::GenerateRequest policy_request() const {
    const std::string path = this->path();
    policy::GenerateRequest request;
    request.context = at_.context;
    request.sampling = tree_.request().sampling;
    if (request.sampling.stop_tokens.empty())
      request.sampling.stop_tokens = shared_.harness->stop_tokens();
    request.key = tree_.key(path);
    request.order = tree_.order(path);
    return request;
  }

  /// Suspends for an answer of the policy; `receive` makes it a T on the policy's thread.
  template <class T, class Answer, class Start, class Receive>
  T ask_policy(const std::string& operation, Start&& start, Receive&& receive) {
    for (int attempt = 1;; ++attempt) {
      std::string reason;  // outside the handler: what follows suspends
      try {
        return suspend_for<T>([&](Completion<T> done) {
          start([&receive, done = std::move(done)](Result<Answer> answer) {
            Result<T> received = [&]() -> Result<T> {
              try {
                return receive(std::move(answer).get());
              } catch (...) {
                return std::current_exception();
              }
            }();
            done(std::move(received));
          });
        });
      } catch (const common::Cancelled&) {
        throw;
      } catch (const std::exception& error) {
        reason = error.what();
      }
      if (!session_.note_failure(path(), operation, reason, attempt < kPolicyAttempts))
        throw GivenUp(operation + ": " + reason);
    }
  }

  Boundary look_ahead() {
    return ask_policy<Boundary, Prefilled>(
        "prefill",
        [&](Completion<Prefilled> done) {
          shared_.parts.policy->prefill(policy_request(), std::move(done));
        },
        [this](Prefilled prefilled) { return decide(prefilled); });
  }

  /// On the policy's thread, in the batch's order: whether to stop and whether to fork depends on
  /// the seed alone in the deterministic mode.
  Boundary decide(const Prefilled& prefilled) {
    pending_.prefill_tokens += prefilled.prefill_tokens;
    pending_.cached_prefill_tokens += prefilled.cached_tokens;
    const size_t length = at_.context->length();
    pending_.attended_tokens +=
        attended(length - prefilled.prefill_tokens, prefilled.prefill_tokens);
    flush();
    Boundary boundary{.first_entropy = prefilled.first_entropy};
    boundary.stop = shared_.cancelled || shared_.budget_exhausted();
    tree::ForkRule* rule = shared_.parts.rule;
    if (boundary.stop || !rule || !tree_.request().may_fork || at_.turn == 0) return boundary;
    std::lock_guard lock(shared_.rule_mutex);
    boundary.forks_in_tree = tree_.forks;
    boundary.branches = std::max(1, rule->decide(fork_context(prefilled.first_entropy)));
    reserve_children(boundary.branches);
    boundary.keep =
        tree_.may_go_back() && tree_.kept().claim(at_.parent.path, prefilled.first_entropy);
    return boundary;
  }

  /// On the policy's thread, as decide(): the action is known, its siblings are not.
  void decide_after(const Generation& generation) {
    if (!tree_.may_branch_after_sampling() || at_.turn == 0) return;
    std::lock_guard lock(shared_.rule_mutex);
    after_ = {.first_entropy = *at_.first_entropy, .forks_in_tree = tree_.forks, .beside = true};
    after_.branches = std::max(1, shared_.parts.rule->decide_sampled(
                                      fork_context(after_.first_entropy), generation.entropies));
    reserve_children(after_.branches);
  }

  tree::ForkContext fork_context(double first_entropy) {
    tree::ForkContext context;
    context.turn = at_.turn;
    context.forks_in_tree = tree_.forks;
    context.forks_on_path = at_.forks_on_path;
    context.turns_since_fork = at_.turn - at_.last_fork_turn;
    context.consecutive_forks = context.turns_since_fork == 1 ? at_.consecutive_forks : 0;
    context.first_entropy = first_entropy;
    context.task = task_.name;
    context.family = tree_.family();
    context.key = tree_.key(path() + "/fork");
    return context;
  }

  /// What cannot be kept is made again from the history when it is wanted.
  void keep() {
    try {
      envs::Fork made = session_.fork();
      tree_.kept().put(
          at_.parent.path, made.kind,
          std::make_unique<Session>(shared_, tree_, std::move(made.child), session_.history()));
    } catch (const common::Cancelled&) {
      throw;
    } catch (const common::NotForkable&) {
    } catch (const std::exception& error) {
      tree_.failed(path(), text_of({{"operation", "keep the environment"},
                                    {"reason", error.what()},
                                    {"then", "by value when it is wanted"}}));
    }
  }

  /// The rule's budget is for branchings that are made: it may take a later turn.
  void give_back() {
    std::lock_guard lock(shared_.rule_mutex);
    --tree_.forks;
  }

  /// Children of a branching take part in the rounds from now on. Under the rule's lock.
  void reserve_children(int branches) {
    if (branches < 2) return;
    ++tree_.forks;
    shared_.parts.policy->join(branches - 1);
    for (int b = 1; b < branches; ++b) joined_.emplace_back(shared_.parts.policy);
  }

  /// K children that sample alike: this episode goes on as number 0.
  void fork(const Boundary& boundary) {
    std::vector<policy::Participant> joined = std::move(joined_);  // those not handed on leave
    joined_.clear();
    if (shared_.options.snapshots == KeepSnapshots::branching) take_snapshot();
    std::vector<BranchPoint> children;
    std::string refusal;
    while (refusal.empty() && children.size() < joined.size())
      if (auto child = fork_once(static_cast<int>(children.size()) + 1, refusal))
        children.push_back(std::move(*child));
    record_fork(at_.parent, boundary, children, refusal);
    if (children.empty()) return give_back();
    at_.forked = true;
    at_.branch = 0;
    at_.origin = children.front().origin;
    start_children(std::move(children), std::move(joined));
  }

  /// Siblings of the action that was sampled and not run yet: the environment is still before it.
  void branch_beside(const Before& before) {
    const Boundary boundary = std::exchange(after_, {});
    if (boundary.branches < 2) return;
    std::vector<policy::Participant> joined = std::move(joined_);
    joined_.clear();
    std::vector<BranchPoint> children;
    std::string refusal;
    while (refusal.empty() && children.size() < joined.size()) {
      auto child = fork_once(before.branch + static_cast<int>(children.size()) + 1, refusal);
      if (!child) continue;
      child->parent = before.parent;
      child->turn = before.turn;
      child->context = before.context;
      child->delta = before.delta;
      child->first_entropy = boundary.first_entropy;
      children.push_back(std::move(*child));
    }
    const int turn = std::exchange(at_.turn, before.turn);
    record_fork(before.parent, boundary, children, refusal);
    if (children.empty()) {
      give_back();
    } else {
      start_children(std::move(children), std::move(joined));
    }
    at_.turn = turn;
  }

  void start_children(std::vector<BranchPoint> children, std::vector<policy::Participant> joined) {
    ++at_.forks_on_path;
    at_.consecutive_forks = at_.last_fork_turn == at_.turn - 1 ? at_.consecutive_forks + 1 : 1;
    at_.last_fork_turn = at_.turn;
    tree_.open_episodes(static_cast<int>(children.size()));
    for (size_t i = 0; i < children.size(); ++i) {
      children[i].forks_on_path = at_.forks_on_path;
      children[i].consecutive_forks = at_.consecutive_forks;
      children[i].last_fork_turn = at_.turn;
      children[i].participant.emplace(std::move(joined[i]));
      shared_.continue_branch(std::move(children[i]));
    }
  }

  /// nullopt with a refusal: this state cannot be forked. A child whose fork failed is made from
  /// the history by its own episode: the failure costs that edge at most.
  std::optional<BranchPoint> fork_once(int branch, std::string& refusal) {
    std::optional<envs::Fork> made;
    std::string failure;
    try {
      made = session_.fork();
    } catch (const common::Cancelled&) {
      throw;
    } catch (const common::NotForkable& error) {
      refusal = error.what();
    } catch (const std::exception& error) {
      failure = error.what();
    }
    if (!refusal.empty()) return std::nullopt;
    if (!failure.empty()) session_.note_failure(path(), "fork", failure);
    BranchPoint child;
    child.tree = at_.tree;
    child.root = at_.root;
    child.parent = at_.parent;
    child.turn = at_.turn;
    child.branch = branch;
    child.forked = true;
    child.origin = made ? origin_of(made->kind) : tree::ForkOrigin::value;
    child.context = at_.context;
    child.delta = at_.delta;
    child.first_entropy = at_.first_entropy;
    child.history = session_.history();
    child.used_seconds = at_.used_seconds;
    if (made) {
      child.environment = std::move(made->child);
      shared_.progress.fork_us += made->duration_us;
    }
    return child;
  }

  void record_fork(const NodeRef& parent, const Boundary& boundary,
                   const std::vector<BranchPoint>& children, const std::string& refusal) {
    pending_.forks += children.size();
    shared_.progress.forks += children.size();
    nlohmann::json detail = record_of(boundary, children);
    detail["rule"] = shared_.parts.rule->name();
    detail["turn"] = at_.turn;
    detail["forks_on_path"] = at_.forks_on_path;
    if (!refusal.empty()) detail["not_forkable"] = refusal;
    tree_.forked(parent, !children.empty(), text_of(detail));
  }

  void sample() {
    const bool injected = !at_.injected.empty();
    Generation generation = script_    ? demonstrate(script_())
                            : injected ? demonstrate(std::exchange(at_.injected, {}))
                                       : generate();
    tree::Node node;
    node.turn = at_.turn;
    node.branch = at_.branch;
    node.fork_origin = at_.origin;
    node.prompt_delta = std::move(at_.delta);
    node.loss_mask.assign(generation.tokens.size(), injected ? 0 : 1);
    node.injected = injected;
    node.action = std::move(generation.tokens);
    node.log_probs = std::move(generation.log_probs);
    node.entropies = std::move(generation.entropies);
    node.first_entropy = static_cast<float>(*at_.first_entropy);
    node.policy_version = generation.policy_version;
    if (!script_ && !injected) node.sampling_key = tree_.key(path()).value;
    node.command = action_.command;
    at_.parent = tree_.add_turn(at_.parent, path(), std::move(node));
    at_.context = std::move(generation.context);
    at_.first_entropy.reset();
    at_.branch = 0;
    at_.forked = false;
    at_.origin = tree::ForkOrigin::none;
    at_.delta.clear();
    ++at_.turn;
  }

  Generation generate() {
    return ask_policy<Generation, Generation>(
        "generate",
        [&](Completion<Generation> done) {
          shared_.parts.policy->generate(policy_request(), std::move(done));
        },
        [this](Generation generation) {
          receive(generation);
          return generation;
        });
  }

  /// On the policy's thread: what an action costs is known to the ledger in the batch's order.
  void receive(const Generation& generation) {
    if (generation.tokens.empty()) throw common::PolicyError("generate: an action of no tokens");
    action_ = shared_.harness->parse(generation.tokens);
    pending_.generated_tokens += generation.tokens.size();
    pending_.prefill_tokens += generation.prefill_tokens;
    const size_t length = at_.context->length();
    pending_.attended_tokens +=
        attended(length - generation.prefill_tokens, generation.prefill_tokens) +
        attended(length, generation.tokens.size());
    // The other episodes took the prefix they share from their own prefill, where it was counted.
    if (at_.forked && at_.branch > 0) pending_.cached_prefill_tokens += generation.cached_tokens;
    if (!action_.ends) pending_.env_steps += 1;
    flush();
    decide_after(generation);
    shared_.progress.generated_tokens += generation.tokens.size();
  }

  /// An action that is not sampled.
  Generation demonstrate(const std::string& command) {
    Generation generation;
    generation.tokens = shared_.harness->encode_action(command);
    generation.log_probs.assign(generation.tokens.size(), 0.0F);
    generation.entropies.assign(generation.tokens.size(), 0.0F);
    generation.context = policy::Context::extend(at_.context, generation.tokens);
    action_ = shared_.harness->parse(generation.tokens);
    if (!action_.ends) pending_.env_steps += 1;
    return generation;
  }

  std::optional<Ending> act() {
    const double limit_s = task_.agent_timeout_s;
    envs::Observation observation;
    if (action_.refusal.empty()) {
      tree_.sending(at_.parent);
      observation = session_.run(at_.parent.path, action_.command, limit_s - at_.used_seconds);
    } else {
      observation.output = action_.refusal + "\n";
      observation.exit_code = 2;  // of bash, for a command it does not accept
    }
    ++shared_.progress.env_steps;
    at_.used_seconds += 1e-6 * static_cast<double>(observation.duration_us);
    shell_exited_ = observation.shell_exited;
    Shown shown = shared_.harness->observe(observation);
    tree_.observed(at_.parent, observation, std::move(shown.text));
    if (shared_.options.snapshots == KeepSnapshots::all && !shell_exited_) take_snapshot();
    at_.context = policy::Context::extend(at_.context, shown.tokens);
    at_.delta = std::move(shown.tokens);
    if (tree_.may_go_back() && !shell_exited_) tree_.remember(at_.parent, at_, session_.history());
    if (at_.used_seconds < limit_s) return std::nullopt;
    return Ending{tree::Outcome::agent_timeout, std::nullopt,
                  "commands took " + std::to_string(at_.used_seconds) + " s, allowed are " +
                      std::to_string(limit_s)};
  }

  void take_snapshot() {
    if (auto id = session_.snapshot(path()); !id.empty()) tree_.snapshot(at_.parent, id);
  }

  Ending verify() {
    const envs::VerifierSpec spec = tree_.verifier(at_.root);
    pending_.verifier_runs += 1;
    tree_.verifying(at_.parent);
    envs::Verdict verdict = session_.verify(at_.parent.path, spec);
    tree_.verified(at_.parent, verdict);
    if (verdict.reward) return {tree::Outcome::rewarded, verdict.reward, ""};
    return {tree::Outcome::verifier_failed, std::nullopt, std::move(verdict.failure)};
  }

  Shared& shared_;
  TreeState& tree_;
  const envs::Task& task_;
  BranchPoint at_;  // where the episode stands: what a branch would start from
  Session session_;
  Script script_;
  ParsedAction action_;
  Boundary after_;  // decided with the action at hand
  bool shell_exited_ = false;
  tree::Spend pending_;                      // not in the ledger yet
  std::vector<policy::Participant> joined_;  // memberships of children that are being made
};

}  // namespace

void run_episode(Shared& shared, BranchPoint start) noexcept {
  const std::shared_ptr<TreeState> tree = start.tree;
  {
    Episode episode(shared, std::move(start));
    Ending ending;
    try {
      ending = episode.play();
    } catch (const common::Cancelled& error) {
      ending = {tree::Outcome::cancelled, std::nullopt, error.what()};
    } catch (const std::exception& error) {
      ending = {tree::Outcome::infra_failed, std::nullopt, error.what()};
    } catch (...) {
      ending = {tree::Outcome::infra_failed, std::nullopt, "unknown exception"};
    }
    episode.finish(std::move(ending));
  }  // the environment goes before the tree is said to be complete
  ++shared.progress.episodes_ended;
  tree->close_episode();
}

void abandon_episode(Shared& shared, BranchPoint start) noexcept {
  const NodeRef leaf = add_empty_node(
      start, start.forked ? tree::child_path(start.parent.path, start.turn, start.branch, true)
                          : tree::root_path(start.root));
  start.tree->ended(leaf, tree::Outcome::cancelled, std::nullopt, kStopping);
  start.tree->close_episode();
}

}  // namespace espalier::rollout
