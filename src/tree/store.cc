#include "tree/store.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#include "common/error.h"
#include "tree/store_hdf5.h"
#include "tree/tree_index.h"

namespace espalier::tree {
namespace {

constexpr const char* kFormat = "espalier-trees";
constexpr uint32_t kVersion = 3;
constexpr uint32_t kOldestVersion = 1;

/// The columns of the two tables: what is written, read and documented. `columns` is a writer or a
/// reader.
template <class Columns>
void tree_columns(Columns& columns) {
  columns.column("index", &Tree::index);
  columns.column("step", &Tree::step);
  columns.column("run_seed", &Tree::run_seed);
  columns.column("id", &Tree::id);
  columns.column("task", &Tree::task);
  columns.column("family", &Tree::family);
  columns.column("prompt", &Tree::prompt);
  columns.column("prompt_tokens", &Tree::prompt_tokens);
}

template <class Columns>
void node_columns(Columns& columns) {
  columns.column("id", &Node::id);
  columns.column("parent", &Node::parent);
  columns.column("branch", &Node::branch);
  columns.column("turn", &Node::turn);
  columns.column("path", &Node::path);
  columns.column("prompt_delta", &Node::prompt_delta);
  columns.column("action", &Node::action);
  columns.column("log_probs", &Node::log_probs);
  columns.column("entropies", &Node::entropies);
  columns.column("loss_mask", &Node::loss_mask);
  columns.column("first_entropy", &Node::first_entropy);
  columns.column("policy_version", &Node::policy_version);
  columns.column("sampling_key", &Node::sampling_key);
  columns.column("command", &Node::command);
  columns.column("observation", &Node::observation);
  columns.column("exit_code", &Node::exit_code);
  columns.column("timed_out", &Node::timed_out);
  columns.column_since(2, "command_state", &Node::command_state);
  columns.column_since(3, "injected", &Node::injected);
  columns.column("fork_origin", &Node::fork_origin);
  columns.column("fork_rule", &Node::fork_rule);
  columns.column("snapshot", &Node::snapshot);
  columns.column("outcome", &Node::outcome);
  columns.column("reward", &Node::reward);
  columns.column("failure", &Node::failure);
  columns.column("value", &Node::value);
  columns.column("advantage", &Node::advantage);
  columns.column("weight", &Node::weight);
  columns.column("s_plus", &Node::s_plus);
  columns.column("s_minus", &Node::s_minus);
}

/// How a field is stored: enums and flags as bytes, an absent reward as NaN.
template <class T>
auto stored(const T& value) {
  if constexpr (std::is_same_v<T, bool> || std::is_enum_v<T>)
    return static_cast<uint8_t>(value);
  else if constexpr (std::is_same_v<T, std::optional<double>>)
    return value.value_or(std::numeric_limits<double>::quiet_NaN());
  else
    return value;
}

template <class T>
constexpr uint8_t last_value() {
  if constexpr (std::is_same_v<T, Outcome>) return static_cast<uint8_t>(Outcome::cancelled);
  if constexpr (std::is_same_v<T, ForkOrigin>) return static_cast<uint8_t>(ForkOrigin::value);
  if constexpr (std::is_same_v<T, CommandState>)
    return static_cast<uint8_t>(CommandState::answered);
  return 1;
}

template <class Row>
class ColumnWriter {
 public:
  ColumnWriter(hdf5::Output& output, const std::string& group, std::vector<const Row*> rows)
      : output_(output), group_(output.group(group)), rows_(std::move(rows)) {}

  template <class T>
  void column(const char* name, T Row::*field) {
    std::vector<decltype(stored(std::declval<T>()))> values;
    values.reserve(rows_.size());
    for (const Row* row : rows_) values.push_back(stored(row->*field));
    output_.write(group_, name, values);
  }
  template <class T>
  void column_since(uint32_t, const char* name, T Row::*field) {
    column(name, field);
  }
  void column(const char* name, NodeId Row::*field) {
    std::vector<NodeId> values;
    for (const Row* row : rows_) values.push_back(row->*field);
    ids(name, values);
  }
  void ids(const char* name, const std::vector<NodeId>& values) {
    std::vector<uint8_t> bytes;
    for (const NodeId& id : values) bytes.insert(bytes.end(), id.bytes.begin(), id.bytes.end());
    output_.write(group_, name, bytes, NodeId{}.bytes.size());
  }
  void column(const char* name, std::string Row::*field) { ragged<uint8_t>(name, field); }
  template <class T>
  void column(const char* name, std::vector<T> Row::*field) {
    ragged<T>(name, field);
  }
  void offsets(const char* name, const std::vector<uint64_t>& values) {
    output_.write(group_, name, values);
  }

 private:
  /// All rows' elements end to end; row i's are [NAME_offset[i], NAME_offset[i + 1]).
  template <class T, class Field>
  void ragged(const std::string& name, Field Row::*field) {
    std::vector<T> values;
    std::vector<uint64_t> offsets{0};
    for (const Row* row : rows_) {
      values.insert(values.end(), (row->*field).begin(), (row->*field).end());
      offsets.push_back(values.size());
    }
    output_.write(group_, name, values);
    output_.write(group_, name + "_offset", offsets);
  }

  hdf5::Output& output_;
  hdf5::Handle group_;
  std::vector<const Row*> rows_;
};

/// Reads the columns of some consecutive rows of a table.
template <class Row>
class ColumnReader {
 public:
  ColumnReader(const hdf5::Input& input, const std::string& group, uint32_t version)
      : input_(input), group_name_(group), group_(input.group(group)), version_(version) {}

  hsize_t total() const { return input_.rows(group_, "id"); }
  void select(hdf5::Rows range) {
    range_ = range;
    const hsize_t all = total();
    if (range.first > all || range.count > all - range.first)
      fail("id", "it ends before row " + std::to_string(range.first + range.count));
    rows.resize(range.count);
  }

  template <class T>
  void column(const char* name, T Row::*field) {
    using Stored = decltype(stored(std::declval<T>()));
    const auto values = input_.read_rows<Stored>(group_, name, range_);
    for (size_t i = 0; i < rows.size(); ++i) {
      if constexpr (std::is_same_v<T, std::optional<double>>) {
        if (!std::isnan(values[i])) rows[i].*field = values[i];
      } else {
        if constexpr (!std::is_same_v<T, Stored>) {
          if (values[i] > last_value<T>())
            fail(name, "row " + std::to_string(range_.first + i) + " holds " +
                           std::to_string(values[i]) + "; allowed: 0 to " +
                           std::to_string(last_value<T>()));
        }
        rows[i].*field = static_cast<T>(values[i]);
      }
    }
  }
  template <class T>
  void column_since(uint32_t version, const char* name, T Row::*field) {
    if (version_ >= version) column(name, field);
  }
  void column(const char* name, NodeId Row::*field) {
    const std::vector<NodeId> values = ids(name);
    for (size_t i = 0; i < rows.size(); ++i) rows[i].*field = values[i];
  }
  std::vector<NodeId> ids(const char* name) {
    const auto bytes = input_.read_rows<uint8_t>(group_, name, range_, kIdBytes);
    std::vector<NodeId> values(range_.count);
    for (size_t i = 0; i < values.size(); ++i)
      std::memcpy(values[i].bytes.data(), bytes.data() + i * kIdBytes, kIdBytes);
    return values;
  }
  void column(const char* name, std::string Row::*field) { ragged<uint8_t>(name, field); }
  template <class T>
  void column(const char* name, std::vector<T> Row::*field) {
    ragged<T>(name, field);
  }
  /// The ascending positions that bound the selected rows in a table or column of `total` elements:
  /// one more than there are rows.
  std::vector<uint64_t> offsets(const std::string& name, hsize_t total) {
    const auto values = input_.read_rows<uint64_t>(group_, name, {range_.first, range_.count + 1});
    const bool ends = range_.first + range_.count == this->total();
    if ((range_.first == 0 && values.front() != 0) || values.back() > total ||
        (ends && values.back() != total) || !std::is_sorted(values.begin(), values.end()))
      fail(name, "not ascending offsets from 0 to " + std::to_string(total));
    return values;
  }

  std::vector<Row> rows;

 private:
  static constexpr size_t kIdBytes = sizeof(NodeId::bytes);

  template <class T, class Field>
  void ragged(const std::string& name, Field Row::*field) {
    const auto ends = offsets(name + "_offset", input_.rows(group_, name));
    const auto values =
        input_.read_rows<T>(group_, name, {ends.front(), ends.back() - ends.front()});
    for (size_t i = 0; i < rows.size(); ++i)
      (rows[i].*field)
          .assign(values.begin() + static_cast<ptrdiff_t>(ends[i] - ends.front()),
                  values.begin() + static_cast<ptrdiff_t>(ends[i + 1] - ends.front()));
  }
  [[noreturn]] void fail(const std::string& name, const std::string& why) {
    input_.fail(group_name_ + "/" + name, why);
  }

  const hdf5::Input& input_;
  std::string group_name_;
  hdf5::Handle group_;
  uint32_t version_;
  hdf5::Rows range_;
};

void check_parents(const hdf5::Input& input, const Tree& tree) {
  for (size_t i = 0; i < tree.nodes.size(); ++i) {
    const int parent = tree.nodes[i].parent;
    if (parent < -1 || parent >= static_cast<int>(i))
      input.fail("nodes/parent", "tree " + std::to_string(tree.index) + ", node " +
                                     std::to_string(i) + ": parent " + std::to_string(parent) +
                                     "; allowed: -1 or a node before it");
  }
}

std::string image_of(const std::filesystem::path& file, const std::vector<Tree>& trees) {
  std::vector<const Tree*> tree_rows;
  std::vector<const Node*> node_rows;
  std::vector<uint64_t> first_node{0};
  for (const Tree& tree : trees) {
    tree_rows.push_back(&tree);
    for (const Node& node : tree.nodes) node_rows.push_back(&node);
    first_node.push_back(node_rows.size());
  }
  const hdf5::Session session;
  hdf5::Output output(file);
  output.attribute("format", std::string(kFormat));
  output.attribute("version", kVersion);
  {
    ColumnWriter<Tree> columns(output, "trees", std::move(tree_rows));
    tree_columns(columns);
    columns.offsets("node_offset", first_node);
    std::vector<NodeId> digests;
    for (const Tree& tree : trees) digests.push_back(tree_digest(tree));
    columns.ids("digest", digests);
  }
  {
    ColumnWriter<Node> columns(output, "nodes", std::move(node_rows));
    node_columns(columns);
  }
  return output.finish();
}

/// The version of the format. Errors: StoreError when it is none of ours.
uint32_t check_format(const hdf5::Input& input) {
  if (input.attribute_text("format") != kFormat)
    input.fail("attribute format",
               "'" + input.attribute_text("format") + "'; allowed: '" + std::string(kFormat) + "'");
  const uint32_t version = input.attribute_number("version");
  if (version < kOldestVersion || version > kVersion)
    input.fail("attribute version", std::to_string(version) + "; this program reads " +
                                        std::to_string(kOldestVersion) + " to " +
                                        std::to_string(kVersion));
  return version;
}

/// Trees in rows `range`; without one: all.
std::vector<Tree> trees_of(const std::filesystem::path& file, std::optional<hdf5::Rows> range) {
  const hdf5::Session session;
  const hdf5::Input input(file);
  const uint32_t version = check_format(input);
  ColumnReader<Tree> trees(input, "trees", version);
  trees.select(range.value_or(hdf5::Rows{0, trees.total()}));
  tree_columns(trees);
  ColumnReader<Node> nodes(input, "nodes", version);
  const auto first = trees.offsets("node_offset", nodes.total());
  nodes.select({first.front(), first.back() - first.front()});
  node_columns(nodes);
  for (size_t i = 0; i < trees.rows.size(); ++i) {
    const auto begin = nodes.rows.begin() - static_cast<ptrdiff_t>(first.front());
    trees.rows[i].nodes.assign(
        std::make_move_iterator(begin + static_cast<ptrdiff_t>(first[i])),
        std::make_move_iterator(begin + static_cast<ptrdiff_t>(first[i + 1])));
    check_parents(input, trees.rows[i]);
  }
  return std::move(trees.rows);
}

/// What is read of a file, with the errors that damage can lead to translated.
template <class Read>
auto reading(const std::filesystem::path& file, Read&& read) {
  try {
    return read();
  } catch (const std::bad_alloc&) {
    throw common::StoreError("HDF5 file " + file.string() + ": larger than memory, or damaged");
  }
}

}  // namespace

void write_trees(const std::filesystem::path& file, const std::vector<Tree>& trees,
                 FileSystem* files) {
  std::error_code error;
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), error);
  if (error)
    throw common::StoreError("create directory " + file.parent_path().string() + ": " +
                             error.message());
  replace_durably(files ? *files : posix_files(), file, image_of(file, trees));
  if (const auto step = shard_step(file)) TreeIndex(file.parent_path()).add(*step, trees);
}

std::vector<Tree> read_trees(const std::filesystem::path& file) {
  return reading(file, [&] { return trees_of(file, std::nullopt); });
}

Tree read_tree(const std::filesystem::path& file, uint64_t row) {
  return reading(file, [&] { return std::move(trees_of(file, hdf5::Rows{row, 1}).front()); });
}

ShardIds read_ids(const std::filesystem::path& file) {
  return reading(file, [&] {
    const hdf5::Session session;
    const hdf5::Input input(file);
    const uint32_t version = check_format(input);
    ShardIds ids;
    ColumnReader<Tree> trees(input, "trees", version);
    trees.select({0, trees.total()});
    trees.column("index", &Tree::index);
    for (const Tree& tree : trees.rows) ids.indices.push_back(tree.index);
    ids.trees = trees.ids("id");
    if (version >= 2) ids.digests = trees.ids("digest");
    ColumnReader<Node> nodes(input, "nodes", version);
    nodes.select({0, nodes.total()});
    ids.nodes = nodes.ids("id");
    ids.first_node = trees.offsets("node_offset", ids.nodes.size());
    return ids;
  });
}

std::filesystem::path shard_path(const std::filesystem::path& run_directory, uint64_t step) {
  char name[40];
  std::snprintf(name, sizeof name, "step_%06llu.h5", static_cast<unsigned long long>(step));
  return run_directory / "trees" / name;
}

std::optional<uint64_t> shard_step(const std::filesystem::path& file) {
  const std::string stem = file.stem().string();
  uint64_t step = 0;
  if (file.extension() != ".h5" || !stem.starts_with("step_")) return std::nullopt;
  auto [stop, bad] = std::from_chars(stem.data() + 5, stem.data() + stem.size(), step);
  if (bad != std::errc() || stop != stem.data() + stem.size()) return std::nullopt;
  return step;
}

std::vector<std::filesystem::path> list_shards(const std::filesystem::path& run_directory) {
  std::vector<std::pair<uint64_t, std::filesystem::path>> found;
  const auto directory = run_directory / "trees";
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    if (const auto step = shard_step(it->path())) found.emplace_back(*step, it->path());
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw common::StoreError("list " + directory.string() + ": " + error.message());
  std::sort(found.begin(), found.end());
  std::vector<std::filesystem::path> shards;
  for (auto& [step, path] : found) shards.push_back(std::move(path));
  return shards;
}

}  // namespace espalier::tree
