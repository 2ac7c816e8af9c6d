#include "envs/sandbox/host_identity.h"

#include <sys/utsname.h>

#include <fstream>

namespace espalier::envs::sandbox {
namespace {

/// Of a line NAME=value or NAME="value"; else empty.
std::string value_of(const std::string& line, const std::string& name) {
  if (!line.starts_with(name + "=")) return {};
  std::string value = line.substr(name.size() + 1);
  if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
  return value;
}

std::string read_identity() {
  std::string id = "linux", release = "rolling";
  std::ifstream file("/etc/os-release");
  for (std::string line; std::getline(file, line);) {
    if (std::string value = value_of(line, "ID"); !value.empty()) id = value;
    if (std::string value = value_of(line, "VERSION_ID"); !value.empty()) release = value;
  }
  utsname machine{};
  uname(&machine);
  return "host:" + id + "-" + release + "-" + machine.machine;
}

}  // namespace

std::string host_identity() {
  static const std::string identity = read_identity();
  return identity;
}

}  // namespace espalier::envs::sandbox
