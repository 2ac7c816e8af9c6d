#include "app/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <fstream>
#include <string>
#include <thread>

#include "common/version.h"
#include "policy/device.h"

namespace espalier::app {

namespace {

std::string cpu_model() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

}  // namespace

nlohmann::json describe_machine() {
  utsname kernel{};
  uname(&kernel);
  const double bytes =
      static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  return {{"cpu", cpu_model()},
          {"cores", std::thread::hardware_concurrency()},
          {"memory_gib", static_cast<int>(bytes / (1 << 30) + 0.5)},
          {"kernel", kernel.release},
          {"torch", policy::torch_version()},
          {"device", policy::device_summary()},
          {"espalier", common::kVersion}};
}

}  // namespace espalier::app
