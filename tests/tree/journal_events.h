// Events for the journal's tests: made from trees, written and read back.
#pragma once

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tree/journal.h"
#include "tree/random_tree.h"

namespace espalier::tree::testing {

inline Event text_event(const std::string& text) {
  Event event;
  event.type = EventType::checkpoint;
  event.text = text;
  return event;
}

/// What the farm appends for a tree.
inline std::vector<Event> events_of(const Tree& tree, bool seal = true) {
  std::vector<Event> events;
  Event start;
  start.type = EventType::tree_started;
  start.tree_index = tree.index;
  start.header = tree;
  start.header.nodes.clear();
  events.push_back(start);
  for (const Node& node : tree.nodes) {
    Event event;
    event.tree_index = tree.index;
    event.node = node.id;
    event.path = node.path;
    event.time_us = 1234567;
    event.type = EventType::turn;
    event.parent = node.parent < 0 ? tree.id : tree.nodes[node.parent].id;
    event.payload = node;
    event.payload.observation.clear();
    event.payload.command_state = CommandState::none;
    event.payload.reward.reset();
    event.payload.outcome = Outcome::none;
    event.payload.failure.clear();
    events.push_back(event);
    event.type = EventType::command;
    event.payload = {};
    events.push_back(event);
    event.type = EventType::observation;
    event.payload = {};
    event.payload.observation = node.observation;
    event.payload.exit_code = node.exit_code;
    event.payload.timed_out = node.timed_out;
    events.push_back(event);
    if (!node.fork_rule.empty()) {
      event.type = EventType::fork;
      event.payload = {};
      event.payload.fork_rule = node.fork_rule;
      events.push_back(event);
    }
    if (node.outcome == Outcome::none) continue;
    event.payload = {};
    if (node.reward) {
      event.type = EventType::verify;
      events.push_back(event);
      event.type = EventType::verdict;
      event.payload.reward = node.reward;
      events.push_back(event);
    }
    event.type = EventType::outcome;
    event.payload.outcome = node.outcome;
    event.payload.reward = node.reward;
    event.payload.failure = node.failure;
    events.push_back(event);
  }
  if (seal) {
    Event sealed;
    sealed.type = EventType::tree_sealed;
    sealed.tree_index = tree.index;
    events.push_back(sealed);
  }
  return events;
}

inline std::vector<Event> read_all(const std::filesystem::path& directory,
                                   std::string* damage = nullptr) {
  JournalReader reader(directory);
  std::vector<Event> events;
  while (auto event = reader.next()) events.push_back(*event);
  if (damage) *damage = reader.damage();
  return events;
}

inline std::vector<std::string> read_texts(const std::filesystem::path& directory,
                                           std::string* damage = nullptr) {
  std::vector<std::string> texts;
  for (const Event& event : read_all(directory, damage)) texts.push_back(event.text);
  return texts;
}

inline void write_texts(const std::filesystem::path& directory, int from, int to,
                        uint64_t* cut = nullptr) {
  JournalWriter writer(directory, Durability::batch);
  if (cut) *cut = writer.cut_bytes();
  for (int i = from; i < to; ++i) writer.append(text_event("event " + std::to_string(i)));
  writer.flush();
}

inline void overwrite(const std::filesystem::path& file, const std::string& content) {
  std::filesystem::remove(file);  // some file systems sync a file that is truncated and rewritten
  std::ofstream(file, std::ios::binary) << content;
}

}  // namespace espalier::tree::testing
