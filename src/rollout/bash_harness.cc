#include <algorithm>
#include <cctype>

#include "common/error.h"
#include "rollout/harness.h"

namespace espalier::rollout {
namespace {

using policy::Token;

std::string without_trailing_newlines(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

/// Whether parts of the command may run at the same time. Quoting is not looked at: a needless
/// refusal is as reproducible as a needed one.
bool runs_concurrently(const std::string& command) {
  for (size_t i = 0; i < command.size(); ++i) {
    const char c = command[i], before = i > 0 ? command[i - 1] : ' ';
    const char after = i + 1 < command.size() ? command[i + 1] : ' ';
    if ((c == '<' || c == '>') && after == '(') return true;
    if (c != '&' && c != '|') continue;
    if (c == after) {
      ++i;  // && and ||
    } else if (c == '|' || !(before == '>' || before == '<' || after == '>')) {
      return true;
    }
  }
  return command.find("coproc") != std::string::npos;
}

class BashHarness : public Harness {
 public:
  BashHarness(policy::TokenizerPtr tokenizer, int max_observation_tokens, bool serial_only)
      : tokenizer_(std::move(tokenizer)),
        max_observation_tokens_(max_observation_tokens),
        serial_only_(serial_only) {
    const std::vector<Token> newline = tokenizer_->encode("\n");
    if (newline.size() != 1)
      throw common::PolicyError("harness bash: the tokenizer encodes a newline as " +
                                std::to_string(newline.size()) + " tokens, needed: 1");
    newline_ = newline[0];
    shell_prompt_ = tokenizer_->encode("$ ");
  }

  std::string name() const override { return "bash"; }

  std::vector<Token> prompt(const envs::Task& task) const override {
    return tokenizer_->encode(without_trailing_newlines(task.instruction) + "\n$ ");
  }

  std::vector<Token> stop_tokens() const override { return {newline_}; }

  ParsedAction parse(const std::vector<Token>& action) const override {
    ParsedAction parsed;
    parsed.command = tokenizer_->decode(action);
    if (!parsed.command.empty() && parsed.command.back() == '\n') parsed.command.pop_back();
    parsed.ends = ends_episode(parsed.command);
    if (serial_only_ && runs_concurrently(parsed.command))
      parsed.refusal = "bash: concurrent commands are off";
    return parsed;
  }

  Shown observe(const envs::Observation& observation) const override {
    std::string_view output = observation.output;
    if (output.ends_with('\n')) output.remove_suffix(1);
    Shown shown;
    shown.tokens = tokenizer_->encode(output);
    if (shown.tokens.size() > static_cast<size_t>(max_observation_tokens_))
      shown.tokens.resize(max_observation_tokens_);
    shown.text = tokenizer_->decode(shown.tokens);
    if (!shown.tokens.empty()) shown.tokens.push_back(newline_);
    shown.tokens.insert(shown.tokens.end(), shell_prompt_.begin(), shell_prompt_.end());
    return shown;
  }

  std::vector<Token> encode_action(const std::string& command) const override {
    std::vector<Token> tokens = tokenizer_->encode(command);
    tokens.push_back(newline_);
    return tokens;
  }

 private:
  policy::TokenizerPtr tokenizer_;
  int max_observation_tokens_;
  bool serial_only_;
  Token newline_ = 0;
  std::vector<Token> shell_prompt_;
};

}  // namespace

bool ends_episode(const std::string& command) {
  constexpr std::string_view kExit = "exit";
  std::string_view rest = command;
  auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!rest.empty() && blank(rest.front())) rest.remove_prefix(1);
  while (!rest.empty() && blank(rest.back())) rest.remove_suffix(1);
  if (!rest.starts_with(kExit)) return false;
  rest.remove_prefix(kExit.size());
  if (rest.empty()) return true;
  if (!blank(rest.front())) return false;
  while (blank(rest.front())) rest.remove_prefix(1);
  return std::all_of(rest.begin(), rest.end(),
                     [](unsigned char c) { return std::isdigit(c) != 0; });
}

std::string without_line_numbers(const std::string& output) {
  constexpr std::string_view kMark = "eval: line ";
  std::string result;
  size_t from = 0;
  for (size_t at; (at = output.find(kMark, from)) != std::string::npos;) {
    at += kMark.size();
    result.append(output, from, at - from);
    from = std::min(output.find_first_not_of("0123456789", at), output.size());
  }
  return result.append(output, from);
}

bool was_run(const Harness& harness, const tree::Node& node) {
  if (node.command_state != tree::CommandState::answered) return false;
  const ParsedAction action = harness.parse(node.action);
  return action.refusal.empty() && !action.ends;
}

bool shows_the_same(const Harness& harness, const envs::Observation& seen, const tree::Node& node) {
  return without_line_numbers(harness.observe(seen).text) ==
             without_line_numbers(node.observation) &&
         seen.exit_code == node.exit_code && seen.timed_out == node.timed_out;
}

std::unique_ptr<Harness> make_bash_harness(policy::TokenizerPtr tokenizer,
                                           int max_observation_tokens, bool serial_only) {
  return std::make_unique<BashHarness>(std::move(tokenizer), max_observation_tokens, serial_only);
}

}  // namespace espalier::rollout
