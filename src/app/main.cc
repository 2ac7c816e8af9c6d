#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <sstream>
#include <string>

#include "app/commands.h"
#include "common/error.h"
#include "common/version.h"

namespace {

/// Idle threads of the OpenMP pool sleep instead of spinning: beside sandboxes a spinning pool
/// slows training down tenfold. libgomp reads its environment when it is loaded, before main;
/// functions of .preinit_array run before any library is initialised.
void choose_omp_wait_policy() { setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0); }
__attribute__((section(".preinit_array"),
               used)) void (*const kBeforeLibraries)() = choose_omp_wait_policy;

constexpr const char* kFooter = R"(
Examples:
  espalier train configs/quickstart.yaml seed=7       train, evaluating before and after
  espalier eval runs/quickstart/checkpoints/step_000060
  espalier trace log runs/quickstart --tree 3         draw one tree of shell sessions
  espalier env check --all                            oracle = 1 and nop = 0 on every family

Exit codes: 0 done; 1 the work failed; 2 bad command line, configuration or task;
  3 this machine lacks something needed (espalier doctor); 4 a check found what it must not;
  130 interrupted (finished work is kept; --resume goes on).)";

/// Else CLI11 says only that a subcommand is required.
void check_subcommand(const CLI::App& app, const std::string& wanted) {
  std::string names;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == wanted) return;
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  throw espalier::common::ConfigError("unknown subcommand '" + wanted + "'; allowed: " + names);
}

int run(int argc, char** argv) {
  using namespace espalier;
  CLI::App app{"Espalier trains language-model terminal agents on trees of rollouts.", "espalier"};
  app.set_version_flag("--version", std::string("espalier ") + common::kVersion);
  app.require_subcommand(1);
  int exit_code = common::kExitOk;
  app::add_train_command(app, exit_code);
  app::add_sft_command(app, exit_code);
  app::add_rollout_command(app, exit_code);
  app::add_eval_command(app, exit_code);
  app::add_env_command(app, exit_code);
  app::add_trace_command(app, exit_code);
  app::add_report_command(app, exit_code);
  app::add_budget_command(app, exit_code);
  app::add_bench_command(app, exit_code);
  app::add_doctor_command(app, exit_code);
  app::add_help_command(app, exit_code);
  app.footer(kFooter);  // after the subcommands, which would take it over
  if (argc > 1 && argv[1][0] != '-') check_subcommand(app, argv[1]);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? common::kExitOk : common::kExitUsage;
  }
  return exit_code;
}

int report(const char* what, int code) {
  std::istringstream lines(what);
  for (std::string line; std::getline(lines, line);)
    std::fprintf(stderr, "espalier: %s\n", line.c_str());
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace espalier::common;
  try {
    return run(argc, argv);
  } catch (const ConfigError& error) {
    return report(error.what(), kExitUsage);
  } catch (const TaskError& error) {
    return report(error.what(), kExitUsage);
  } catch (const Unsupported& error) {
    return report(error.what(), kExitUnsupported);
  } catch (const Cancelled& error) {
    return report(error.what(), kExitInterrupted);
  } catch (const std::exception& error) {
    return report(error.what(), kExitFailure);
  }
}
