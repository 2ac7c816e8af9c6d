// What a training run leaves when it ends: its summary and its report.
#include <fmt/core.h>

#include "app/algorithm.h"
#include "app/report.h"
#include "app/trainer.h"
#include "common/files.h"
#include "common/version.h"
#include "policy/model_io.h"

namespace espalier::app {

nlohmann::json Trainer::summary() const {
  nlohmann::json json;
  json["name"] = run_.root.filename().string();
  json["version"] = common::kVersion;
  json["seed"] = config_.seed;
  json["deterministic"] = config_.deterministic;
  json["steps"] = state_.step;
  json["eval"] = {{"before", state_.eval_before}, {"after", state_.eval_after}};
  json["budget"] = nlohmann::json::object();
  const tree::Ledger& ledger = session_->ledger;
  for (const auto& [unit, value] : ledger.units()) json["budget"][unit] = value;
  json["budget_limit"] = {{"unit", ledger.unit()},
                          {"limit", ledger.limit()},
                          {"used", ledger.used()},
                          {"overshoot", ledger.overshoot()}};
  json["warnings"] = algorithm_warnings(*estimator_, *session_->rule);
  if (state_.bad_steps > 0)
    json["warnings"].push_back(
        fmt::format("{} step(s) were skipped: loss or gradient was not finite", state_.bad_steps));
  json["wall_s"] = nlohmann::json::object();
  double total = 0;
  for (const char* phase : {"setup", "sft", "rollout", "train", "eval"}) {
    json["wall_s"][phase] = clock_.seconds(phase);
    total += clock_.seconds(phase);
  }
  json["wall_s"]["total"] = total;
  const policy::WeightsPtr weights = learner_->weights();
  json["model"] = {{"parameters", policy::shape_of(weights).parameters()},
                   {"digest", policy::digest(weights)}};
  return json;
}

void Trainer::finish() {
  writer_->wait();
  const nlohmann::json json = summary();
  common::write_file_atomically(run_.summary(), json.dump(2) + "\n");
  sink_->flush();
  write_report({run_.root}, run_.report());
}

}  // namespace espalier::app
