// espalier help config
#include <fmt/core.h>

#include "app/commands.h"
#include "common/config.h"

namespace espalier::app {

void add_help_command(CLI::App& app, int& exit_code) {
  CLI::App* help =
      app.add_subcommand("help", "Reference pages: help config documents every configuration key");
  help->require_subcommand(1);
  help->add_subcommand("config", "Every configuration key: type, default, range, meaning")
      ->callback([&exit_code] {
        fmt::print("{}", common::config_help());
        exit_code = 0;
      });
}

}  // namespace espalier::app
