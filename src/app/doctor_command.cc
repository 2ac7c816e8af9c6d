// espalier doctor: what this machine can do, what is missing, and how to mend it.
#include <fmt/core.h>
#include <unistd.h>

#include "app/commands.h"
#include "app/machine.h"
#include "common/error.h"
#include "envs/container/probe.h"
#include "envs/sandbox/probe.h"

namespace espalier::app {

namespace {

nlohmann::json json_of(const std::vector<envs::Capability>& capabilities) {
  nlohmann::json list = nlohmann::json::array();
  for (const envs::Capability& c : capabilities) {
    list.push_back({{"name", c.name},
                    {"available", c.available},
                    {"required", c.required},
                    {"detail", c.detail},
                    {"fix", c.fix}});
  }
  return list;
}

void print(const char* title, const std::vector<envs::Capability>& capabilities) {
  const bool colour = isatty(STDOUT_FILENO);
  fmt::print("\n{}\n", title);
  for (const envs::Capability& c : capabilities) {
    const char* mark = c.available  ? (colour ? "\033[32mok\033[0m     " : "ok     ")
                       : c.required ? (colour ? "\033[31mMISSING\033[0m" : "MISSING")
                                    : (colour ? "\033[33mabsent\033[0m " : "absent ");
    fmt::print("  {} {:<22} {}\n", mark, c.name, c.detail);
    if (!c.available && !c.fix.empty()) fmt::print("          {:<22} to have it: {}\n", "", c.fix);
  }
}

int doctor(bool as_json) {
  const nlohmann::json machine = describe_machine();
  const std::vector<envs::Capability> sandbox = envs::probe(), engines = envs::probe_engines();
  bool usable = true;
  for (const envs::Capability& capability : sandbox)
    usable = usable && (capability.available || !capability.required);
  if (as_json) {
    const nlohmann::json all = {{"machine", machine},
                                {"sandbox", json_of(sandbox)},
                                {"engines", json_of(engines)},
                                {"usable", usable}};
    fmt::print("{}\n", all.dump(2));
    return usable ? common::kExitOk : common::kExitUnsupported;
  }
  fmt::print("Machine\n");
  for (const auto& [key, value] : machine.items()) {
    fmt::print("  {:<12} {}\n", key, value.is_string() ? value.get<std::string>() : value.dump());
  }
  print("Sandbox", sandbox);
  print("Images and containers (none is needed)", engines);
  fmt::print("\n{}\n", usable ? "Everything that is needed is there. Next: ./scripts/quickstart.sh"
                              : "Something needed is missing: see the lines marked MISSING.");
  return usable ? common::kExitOk : common::kExitUnsupported;
}

}  // namespace

void add_doctor_command(CLI::App& app, int& exit_code) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("doctor", "What this machine can do, what is missing and how to mend it");
  command->add_flag("--json", *as_json, "machine-readable");
  command->callback([as_json, &exit_code] { exit_code = doctor(*as_json); });
}

}  // namespace espalier::app
