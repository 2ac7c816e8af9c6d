#include "tree/advantage.h"

#include "common/error.h"
#include "tree/estimators/factories.h"

namespace espalier::tree {
namespace {

struct Entry {
  const char* name;
  std::unique_ptr<AdvantageEstimator> (*make)(const AdvantageOptions&);
};

constexpr Entry kEstimators[] = {
#define ESPALIER_ESTIMATOR(name) {#name, make_##name},
#include "tree/estimators/registry.inc"
#undef ESPALIER_ESTIMATOR
};

}  // namespace

std::unique_ptr<AdvantageEstimator> make_estimator(const std::string& name,
                                                   const AdvantageOptions& options) {
  std::string names;
  for (const Entry& entry : kEstimators) {
    if (name == entry.name) return entry.make(options);
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  throw common::ConfigError("advantage estimator: unknown name '" + name + "'; there are " + names);
}

std::vector<std::string> estimator_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEstimators) names.emplace_back(entry.name);
  return names;
}

}  // namespace espalier::tree
