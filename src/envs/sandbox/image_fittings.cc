#include "envs/sandbox/image_fittings.h"

#include <elf.h>
#include <sys/stat.h>

#include <cstring>
#include <set>

#include "common/error.h"
#include "envs/image/layout.h"
#include "envs/sandbox/pack.h"
#include "envs/sandbox/wire.h"

namespace espalier::envs::sandbox {
namespace {

using Found = image::ImageView::Found;

constexpr const char* kBash = "/bin/bash";
constexpr size_t kMaxTableBytes = 1 << 20;
constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom", "tty"};
constexpr const char* kDeviceLinks[][2] = {{"dev/fd", "/proc/self/fd"},
                                           {"dev/stdin", "fd/0"},
                                           {"dev/stdout", "fd/1"},
                                           {"dev/stderr", "fd/2"},
                                           {"dev/ptmx", "pts/ptmx"}};

// ---- users ----

/// A line of passwd or group, split at its colons.
using Record = std::vector<std::string>;

std::vector<Record> table(const ImageRoot& root, const char* path, size_t fields) {
  std::vector<Record> records;
  std::string text = root.view.read(path, kMaxTableBytes).value_or("");
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find('\n', at), text.size());
    Record record(1);
    for (char c : text.substr(at, end - at)) {
      if (c == ':') {
        record.emplace_back();
      } else {
        record.back() += c;
      }
    }
    if (record.size() >= fields) records.push_back(std::move(record));
    at = end + 1;
  }
  return records;
}

constexpr size_t kName = 0, kId = 2, kHome = 5, kPasswdFields = 7, kGroupFields = 3;

const Record* find(const std::vector<Record>& records, size_t field, const std::string& value) {
  for (const Record& record : records)
    if (record[field] == value) return &record;
  return nullptr;
}

std::string home_of(const ImageRoot& root, uint32_t uid) {
  auto users = table(root, "/etc/passwd", kPasswdFields);
  const Record* user = find(users, kId, std::to_string(uid));
  if (user && (*user)[kHome].starts_with('/') && (*user)[kHome] != "/") return (*user)[kHome];
  return uid == wire::kSandboxRoot ? "/root" : "/home/agent";
}

[[noreturn]] void refuse(const ImageRoot& root, const std::string& why) {
  throw common::TaskError("image '" + root.image.reference + "': " + why);
}

/// Whether the image's user is the sandbox's root: as in Docker where it names none.
bool runs_as_root(const ImageRoot& root) {
  std::string user = root.image.config.user.substr(0, root.image.config.user.find(':'));
  if (user.empty()) return true;
  if (user.find_first_not_of("0123456789") != std::string::npos) {
    auto users = table(root, "/etc/passwd", kPasswdFields);
    const Record* record = find(users, kName, user);
    if (!record) refuse(root, "its user '" + user + "' is not in its /etc/passwd");
    user = (*record)[kId];
  }
  if (user == std::to_string(wire::kSandboxRoot)) return true;
  if (user == std::to_string(wire::kSandboxAgent)) return false;
  refuse(root, "its user '" + root.image.config.user + "' has the uid " + user +
                   "; a session's user is 0 or " + std::to_string(wire::kSandboxAgent));
}

// ---- the session's program ----

/// Why a program cannot run on this machine; empty: nothing speaks against it.
std::string why_not_runnable(const ImageRoot& root, const std::string& path) {
  constexpr size_t kHeadBytes = 64 << 10;
  std::string head = root.view.read(path, kHeadBytes).value_or("");
  Elf64_Ehdr elf{};
  if (head.size() < sizeof elf || head.compare(0, SELFMAG, ELFMAG) != 0) return "";
  std::memcpy(&elf, head.data(), sizeof elf);
  std::string machine = image::machine_architecture();
  if ((machine == "amd64" && elf.e_machine != EM_X86_64) ||
      (machine == "arm64" && elf.e_machine != EM_AARCH64))
    return "is not for this machine, which is " + machine;
  for (size_t i = 0; i < elf.e_phnum; ++i) {
    Elf64_Phdr segment{};
    size_t at = elf.e_phoff + i * sizeof segment;
    if (at + sizeof segment > head.size()) break;
    std::memcpy(&segment, head.data() + at, sizeof segment);
    if (segment.p_type != PT_INTERP || segment.p_offset >= head.size()) continue;
    std::string loader = head.c_str() + segment.p_offset;
    if (!root.view.find(loader)) return "needs " + loader + ", which the image lacks";
  }
  return "";
}

void require_session(const EnvironmentSpec& spec, const ImageRoot& root) {
  std::string program = spec.session.empty() ? kBash : spec.session.front();
  if (!program.starts_with('/')) return;  // looked up on PATH when it starts
  auto found = root.view.find(program);
  if (!found)
    refuse(root, "it has no " + program + ", which the session is" +
                     (spec.session.empty() && root.view.find("/bin/sh")
                          ? " (there is a /bin/sh, but an agent's session needs bash: install it "
                            "in the image)"
                          : ""));
  if (!S_ISREG(found->mode) || !(found->mode & 0111))
    refuse(root, "its " + program + " is not an executable file");
  std::string why = why_not_runnable(root, program);
  if (!why.empty()) refuse(root, "its " + program + " " + why);
}

// ---- the layer ----

/// Gathers the layer's items; what the image has already is left as it is.
class Fittings {
 public:
  explicit Fittings(const ImageRoot& root) : root_(root) {}
  const std::string& pack() const { return pack_; }

  void add(const std::string& path, uint32_t mode, uint32_t uid, const std::string& content,
           bool opaque = false) {
    PackItem item;
    item.path = path;
    item.mode = mode;
    item.uid = item.gid = uid;
    item.content = content;
    item.opaque = opaque;
    append_item(&pack_, item);
    if (S_ISDIR(mode)) directories_.insert(path);
  }

  /// The directories above `path`, as the image has them where it does.
  void add_parents(const std::string& path) {
    for (size_t end = 0; (end = path.find('/', end + 1)) != std::string::npos;) {
      std::string parent = path.substr(0, end);
      if (directories_.count(parent)) continue;
      auto found = root_.view.find(parent);
      PackItem item;
      item.path = parent;
      item.mode = S_IFDIR | (found && S_ISDIR(found->mode) ? found->mode & 07777 : 0755);
      item.uid = found ? found->uid : uint32_t{wire::kSandboxRoot};
      item.gid = found ? found->gid : uint32_t{wire::kSandboxRoot};
      append_item(&pack_, item);
      directories_.insert(parent);
    }
  }

  /// A directory, unless the image has one.
  void want_directory(const std::string& path, uint32_t mode, uint32_t uid) {
    auto found = root_.view.find(path);
    if (found && S_ISDIR(found->mode)) return;
    set_directory(path, mode, uid);
  }

  void set_directory(const std::string& path, uint32_t mode, uint32_t uid) {
    std::string real = root_.view.resolve(path);
    if (real.empty() || directories_.count(real)) return;
    add_parents(real);
    add(real, S_IFDIR | mode, uid, "");
  }

  void set_file(const std::string& path, const std::string& content) {
    // The link itself is replaced, not what it leads to: perhaps into /run or /proc.
    size_t slash = path.rfind('/');
    std::string directory = root_.view.resolve(path.substr(0, slash));
    std::string real = (directory.empty() ? "" : directory + "/") + path.substr(slash + 1);
    add_parents(real);
    add(real, S_IFREG | 0644, wire::kSandboxRoot, content);
  }

 private:
  const ImageRoot& root_;
  std::string pack_;
  std::set<std::string> directories_;
};

void add_dev(Fittings* fittings) {
  // The image's own /dev is hidden: nodes in it would be dead anyway.
  fittings->add("dev", S_IFDIR | 0755, wire::kSandboxRoot, "", true);
  for (const char* name : kDevices)
    fittings->add(std::string("dev/") + name, S_IFREG | 0666, wire::kSandboxRoot, "");
  for (auto& [path, target] : kDeviceLinks)
    fittings->add(path, S_IFLNK | 0777, wire::kSandboxRoot, target);
  fittings->add("dev/pts", S_IFDIR | 0755, wire::kSandboxRoot, "");
  fittings->add("dev/shm", S_IFDIR | 01777, wire::kSandboxRoot, "");
  for (const char* name : {"proc", "sys"})
    fittings->add(name, S_IFDIR | 0755, wire::kSandboxRoot, "", true);
}

void add_users(const ImageRoot& root, Fittings* fittings) {
  auto complete = [&](const char* path, size_t fields, const std::string& root_line,
                      const std::string& agent_rest) {
    auto records = table(root, path, fields);
    std::string agent = std::to_string(wire::kSandboxAgent), lines;
    if (!find(records, kId, std::to_string(wire::kSandboxRoot))) lines += root_line;
    if (!find(records, kId, agent))
      lines += (find(records, kName, "agent") ? "agent" + agent : std::string("agent")) +
               ":x:" + agent + agent_rest;
    if (lines.empty()) return;
    std::string text = root.view.read(path, kMaxTableBytes).value_or("");
    if (!text.empty() && text.back() != '\n') text += '\n';
    fittings->set_file(path, text + lines);
  };
  complete("/etc/passwd", kPasswdFields, "root:x:0:0:root:/root:/bin/bash\n",
           ":1000:agent:/home/agent:/bin/bash\n");
  complete("/etc/group", kGroupFields, "root:x:0:\n", ":\n");
  fittings->want_directory(home_of(root, wire::kSandboxRoot), 0700, wire::kSandboxRoot);
  fittings->want_directory(home_of(root, wire::kSandboxAgent), 0755, wire::kSandboxAgent);
}

void add_names(Fittings* fittings) {
  fittings->set_file("/etc/hostname", "sandbox\n");
  fittings->set_file("/etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost\n");
}

}  // namespace

EnvironmentSpec fitted(const EnvironmentSpec& asked, const ImageRoot* root) {
  EnvironmentSpec spec = asked;
  if (!root) {
    if (spec.workdir.empty()) spec.workdir = kDefaultWorkdir;
    return spec;
  }
  const image::ImageConfig& config = root->image.config;
  if (spec.workdir.empty() && config.present)
    spec.workdir = config.workdir.empty() ? "/" : config.workdir;
  if (spec.workdir.empty()) spec.workdir = kDefaultWorkdir;
  if (config.present && runs_as_root(*root)) spec.root = true;
  for (const auto& [name, value] : config.variables) spec.variables.emplace(name, value);
  spec.variables.emplace("HOME",
                         home_of(*root, spec.root ? wire::kSandboxRoot : wire::kSandboxAgent));
  require_session(spec, *root);
  return spec;
}

std::string fittings_pack(const EnvironmentSpec& spec, const ImageRoot& root) {
  Fittings fittings(root);
  add_dev(&fittings);
  for (const char* path : {"/tmp", "/var/tmp"})
    fittings.want_directory(path, 01777, wire::kSandboxRoot);
  for (const char* path : {"/run", "/logs", "/logs/verifier"})
    fittings.want_directory(path, 0755, wire::kSandboxRoot);
  for (const char* path : {"/logs/agent", "/logs/artifacts"})
    fittings.want_directory(path, 0755, wire::kSandboxAgent);
  add_users(root, &fittings);
  add_names(&fittings);
  uint32_t owner = spec.root ? wire::kSandboxRoot : wire::kSandboxAgent;
  // The session's user owns its working directory, unless that is one of the system's.
  if (spec.workdir != "/" && !spec.root) {
    fittings.set_directory(spec.workdir, 0755, owner);
  } else {
    fittings.want_directory(spec.workdir, 0755, owner);
  }
  std::string pack = fittings.pack();
  if (!spec.files.empty())
    pack += pack_directory(spec.files, root.view.resolve(spec.workdir), owner);
  return pack;
}

}  // namespace espalier::envs::sandbox
