#include "envs/nursery/nursery.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "common/error.h"
#include "envs/nursery/families.h"

namespace espalier::envs::nursery {
namespace {

constexpr std::string_view kScheme = "nursery:";

// Seed ranges of the splits, disjoint; below them lie the small numbers people type.
constexpr uint64_t kEvalSeeds = 1'000'000'000;
constexpr uint64_t kTestSeeds = 2'000'000'000;
constexpr uint64_t kSftSeeds = 3'000'000'000;
constexpr uint64_t kTrainSeeds = 4'000'000'000;
constexpr uint64_t kSeedsPerSplit = 1'000'000'000;

std::string joined(const std::vector<std::string>& items) {
  std::string text;
  for (const std::string& item : items) text += (text.empty() ? "" : ", ") + item;
  return text;
}

const Family* find_family(std::string_view name) {
  for (const Family& family : registry())
    if (family.name == name) return &family;
  return nullptr;
}

std::string all_families() {
  std::vector<std::string> names;
  for (const Family& family : registry()) names.emplace_back(family.name);
  return joined(names);
}

const Family& family_or_throw(const std::string& name) {
  if (const Family* family = find_family(name)) return *family;
  throw common::TaskError("nursery: unknown family '" + name + "'; families: " + all_families());
}

template <class Int>
std::optional<Int> parse_number(std::string_view text) {
  Int value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

[[noreturn]] void refuse(const std::string& name, const std::string& reason) {
  throw common::TaskError(
      "nursery task '" + name + "': " + reason +
      "; expected nursery:FAMILY/SEED or nursery:FAMILY/SEED/dDEPTH with a depth of " +
      std::to_string(kMinDepth) + " to " + std::to_string(kMaxDepth) + " and FAMILY one of " +
      all_families());
}

struct SeedRange {
  const char* name;
  uint64_t first;
  bool fixed;  // the same set for every run seed, index by index
};

SeedRange range_of(Split split) {
  switch (split) {
    case Split::sft:
      return {"sft", kSftSeeds, false};
    case Split::train:
      return {"train", kTrainSeeds, false};
    case Split::eval:
      return {"eval", kEvalSeeds, true};
    case Split::test:
      return {"test", kTestSeeds, true};
  }
  ESPALIER_CHECK(false, "unknown split");
}

}  // namespace

std::string TaskId::name() const {
  return std::string(kScheme) + family + "/" + std::to_string(seed) + "/d" + std::to_string(depth);
}

bool is_task_id(const std::string& name) { return name.starts_with(kScheme); }

TaskId parse_task_id(const std::string& name) {
  if (!is_task_id(name)) refuse(name, "does not begin with 'nursery:'");
  std::string_view rest = std::string_view(name).substr(kScheme.size());
  size_t slash = rest.find('/');
  TaskId id;
  id.family = std::string(rest.substr(0, slash));
  if (!find_family(id.family)) refuse(name, "unknown family '" + id.family + "'");
  if (slash == std::string_view::npos) refuse(name, "has no seed");
  rest.remove_prefix(slash + 1);
  slash = rest.find('/');
  std::string_view seed_text = rest.substr(0, slash);
  std::optional<uint64_t> seed = parse_number<uint64_t>(seed_text);
  if (!seed) refuse(name, "seed '" + std::string(seed_text) + "' is not a number");
  id.seed = *seed;
  if (slash == std::string_view::npos) {
    common::Rng rng(common::derive_key(id.seed, std::string(kScheme) + id.family, "depth"));
    id.depth = static_cast<int>(rng.range(kMinDepth, kMaxDepth));
    return id;
  }
  std::string_view depth_text = rest.substr(slash + 1);
  std::optional<int> depth;
  if (depth_text.starts_with('d')) depth = parse_number<int>(depth_text.substr(1));
  if (!depth || *depth < kMinDepth || *depth > kMaxDepth)
    refuse(name, "depth '" + std::string(depth_text) + "'");
  id.depth = *depth;
  return id;
}

std::vector<std::string> families(Tier tier) {
  std::vector<std::string> names;
  for (const Family& family : registry())
    if (family.tier == tier) names.emplace_back(family.name);
  return names;
}

Tier tier_of(const std::string& family) { return family_or_throw(family).tier; }

std::string summary_of(const std::string& family) {
  return std::string(family_or_throw(family).summary);
}

const char* to_string(Tier tier) {
  switch (tier) {
    case Tier::base:
      return "base";
    case Tier::hard:
      return "hard";
    case Tier::luck:
      return "luck";
  }
  ESPALIER_CHECK(false, "unknown tier");
}

Blueprint make_blueprint(const TaskId& id) {
  const Family& family = family_or_throw(id.family);
  if (id.depth < kMinDepth || id.depth > kMaxDepth)
    refuse(id.name(), "depth " + std::to_string(id.depth));
  Draft draft(id);
  family.draw(draft);
  return draft.finish();
}

TaskId draw_task(Split split, uint64_t run_seed, uint64_t index, const Draw& draw) {
  std::vector<std::string> names = draw.families.empty() ? families(Tier::base) : draw.families;
  for (const std::string& name : names) family_or_throw(name);
  if (draw.depth_min < kMinDepth || draw.depth_max > kMaxDepth || draw.depth_min > draw.depth_max)
    throw common::TaskError("nursery: depths " + std::to_string(draw.depth_min) + " to " +
                            std::to_string(draw.depth_max) +
                            " asked for; allowed: a range within " + std::to_string(kMinDepth) +
                            " to " + std::to_string(kMaxDepth));
  SeedRange range = range_of(split);
  common::Rng rng(common::derive_key(range.fixed ? 0 : run_seed,
                                     std::string("nursery/") + range.name, std::to_string(index)));
  TaskId id;
  id.family = names[index % names.size()];
  id.depth = static_cast<int>(rng.range(draw.depth_min, draw.depth_max));
  uint64_t offset = range.fixed ? index % kSeedsPerSplit
                                : static_cast<uint64_t>(rng.range(0, kSeedsPerSplit - 1));
  id.seed = range.first + offset;
  return id;
}

}  // namespace espalier::envs::nursery
