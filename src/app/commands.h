// The subcommands of `espalier`, one file each. Every add_… registers its subcommand; running it
// sets exit_code.
#pragma once

#include <CLI/CLI.hpp>

namespace espalier::app {

void add_train_command(CLI::App& app, int& exit_code);
void add_sft_command(CLI::App& app, int& exit_code);
void add_rollout_command(CLI::App& app, int& exit_code);
void add_eval_command(CLI::App& app, int& exit_code);
void add_env_command(CLI::App& app, int& exit_code);
void add_trace_command(CLI::App& app, int& exit_code);
/// Those of `trace` that need sandboxes.
void add_trace_sandbox_commands(CLI::App& trace, int& exit_code);
void add_report_command(CLI::App& app, int& exit_code);
void add_budget_command(CLI::App& app, int& exit_code);
void add_bench_command(CLI::App& app, int& exit_code);
void add_doctor_command(CLI::App& app, int& exit_code);
void add_help_command(CLI::App& app, int& exit_code);

}  // namespace espalier::app
