#include "envs/container/container.h"

#include <cmath>

#include "common/error.h"
#include "envs/container/tar.h"
#include "envs/limits.h"
#include "envs/sandbox/shell.h"

namespace espalier::envs::container {
namespace {

using nlohmann::json;

// Beside what the agent may run: pid 1, and the engine's own threads at an exec.
constexpr int kOwnProcesses = 16;
constexpr double kNanosecondsPerSecond = 1e9;
constexpr auto kKillGrace = std::chrono::seconds(5);
constexpr int kOpenFiles[] = {1024, 16384};
constexpr int kProcessesOfAUser = 16384;  // the engine's default may be more than it may grant

// Sleeps for ever without a process of its own, and reaps what is orphaned.
constexpr const char* kFirstProcess = "exec 3<> <(:);while :;do read -r -u 3;done";

// $@: processes to spare. Again and again while the others start more.
constexpr const char* kKillScript =
    "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do n=\n"
    "  for d in /proc/[0-9]*; do\n"
    "    case \" 1 $$ $* \" in *\" ${d#/proc/} \"*) ;; *) kill -9 ${d#/proc/} && n=1 ;; esac\n"
    "  done\n"
    "  [ \"$n\" ] || break\n"
    "done 2>/dev/null";

std::vector<std::string> environment_list(const EnvironmentSpec& spec, const Image::Config& image) {
  std::map<std::string, std::string> all;
  for (const auto& [name, value] : {std::pair("LC_ALL", "C.UTF-8"), std::pair("TERM", "dumb")})
    if (!image.variables.count(name)) all[name] = value;
  for (const auto& [name, value] : spec.variables) all[name] = value;
  return sandbox::assignments(all);
}

json ulimit(const char* name, int64_t soft, int64_t hard) {
  return {{"Name", name}, {"Soft", soft}, {"Hard", hard}};
}

json host_config(const EnvironmentSpec& spec) {
  const Limits& limits = spec.limits;
  json ulimits = {ulimit("nofile", kOpenFiles[0], kOpenFiles[1]),
                  ulimit("nproc", kProcessesOfAUser, kProcessesOfAUser), ulimit("core", 0, 0)};
  // Engines cap what a container writes on few file systems only; a single file can always be.
  if (limits.disk_bytes)
    ulimits.push_back(ulimit("fsize", int64_t(limits.disk_bytes), int64_t(limits.disk_bytes)));
  json config = {{"NetworkMode", spec.network ? "bridge" : "none"},
                 {"CapDrop", {"ALL"}},
                 {"CapAdd",
                  {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE",
                   "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"}},
                 {"SecurityOpt", {"no-new-privileges"}},
                 {"Ulimits", std::move(ulimits)}};
  if (limits.memory_bytes) config["Memory"] = config["MemorySwap"] = limits.memory_bytes;
  if (limits.pids) config["PidsLimit"] = limits.pids + kOwnProcesses;
  if (limits.cpus > 0) config["NanoCpus"] = std::llround(limits.cpus * kNanosecondsPerSecond);
  return config;
}

/// What the process beside the shell is reported to have ended with; it may be preceded by bash's
/// own remarks.
std::optional<int> reported_code(const std::string& status) {
  const size_t word = status.rfind("exit ");
  if (word == std::string::npos || status.back() != '\n') return std::nullopt;
  return std::atoi(status.c_str() + word + 5) & 255;
}

/// Directory and name of an absolute path.
std::pair<std::string, std::string> split_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (path.empty() || path[0] != '/' || slash + 1 == path.size())
    throw common::SandboxError("write the file '" + path + "': not an absolute path of a file");
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

json creation_request(const Seed& seed, const std::string& owner) {
  return {{"Image", seed.image->id()},
          {"Entrypoint", {"/bin/bash", "--norc", "--noprofile", "-c", kFirstProcess}},
          {"Cmd", json::array()},
          {"User", "0"},
          {"WorkingDir", "/"},
          {"Hostname", "sandbox"},
          {"Env", environment_list(seed.spec, seed.image->config())},
          {"StopSignal", "SIGKILL"},
          {"Labels", {{kOwnerLabel, owner}, {kStoreLabel, ""}}},
          {"HostConfig", host_config(seed.spec)}};
}

std::shared_ptr<Container> Container::start(std::shared_ptr<Core> core, Seed seed) {
  std::shared_ptr<Container> container(new Container(std::move(core), std::move(seed)));
  try {
    container->create();
    container->begin_session();
  } catch (...) {
    container->remove();
    throw;
  }
  return container;
}

void Container::create() {
  EnvironmentSpec& spec = seed_.spec;
  if (!spec.session.empty() || spec.terminal)
    throw common::SandboxError(
        "start a container: a session other than bash, or one with a terminal, is not to be had in "
        "a container engine; use env.backend=sandbox");
  check_limits(spec.limits, false);
  const Image::Config& image = seed_.image->config();
  user_ = spec.root || image.user.empty() ? "0" : image.user;
  if (spec.workdir.empty()) spec.workdir = image.workdir;
  if (spec.workdir.empty()) spec.workdir = kDefaultWorkdir;
  ApiCall call;
  call.what = "create a container of " + seed_.image->id();
  call.method = "POST";
  call.path = "/containers/create";
  call.json = creation_request(seed_, core_->owner);
  id_ = core_->engine.call_json(call).at("Id");
  call = {};
  call.what = "start a container of " + seed_.image->id();
  call.method = "POST";
  call.path = "/containers/" + id_ + "/start";
  core_->engine.call(call);
}

void Container::begin_session() {
  const EnvironmentSpec& spec = seed_.spec;
  session_ =
      std::make_unique<Session>(attach(session_argv(), user_, "/", {}, true, &session_exec_),
                                spec.limits.output_bytes, seed_.restore, seed_.last_exit_code);
  if (seed_.resumed) return;
  const uint32_t uid = uint32_t(std::stoul(session_->facts().uid)),
                 gid = uint32_t(std::stoul(session_->facts().gid));
  if (spec.workdir != "/") {
    const auto [parent, name] = split_path(spec.workdir);
    const std::string tar = tar_of_tree(spec.files, name, uid, gid);
    if (!put_archive(parent, tar)) {
      require_directory(parent);
      put_archive(parent, tar);
    }
  } else if (!spec.files.empty()) {
    put_archive("/", tar_of_tree(spec.files, "", uid, gid));
  }
  session_->enter(spec.workdir);
}

void Container::check_open() const {
  if (closed_) throw common::Cancelled("the environment was closed");
}

void Container::close() {
  closed_ = true;
  std::lock_guard lock(mutex_);
  if (session_) session_->shut();
  for (Stream* stream : streams_) stream->shut();
}

void Container::remove() {
  if (id_.empty()) return;
  ApiCall call;
  call.what = "remove a container";
  call.method = "DELETE";
  call.path = "/containers/" + id_ + "?force=1&v=1";
  call.may_miss = true;
  try {
    core_->engine.call(call);
  } catch (const common::Error&) {
    // `env clean` finds it once this process is gone; there is nobody here to tell.
  }
}

/// Errors: SandboxError when the container does not run any more.
void Container::require_running() {
  check_open();
  ApiCall call;
  call.what = "look at a container";
  call.path = "/containers/" + id_ + "/json";
  call.may_miss = true;
  const json inspected = core_->engine.call_json(call);
  if (inspected.is_object() && inspected.at("State").value("Running", false)) return;
  throw common::SandboxError("the container has ended, perhaps for want of memory");
}

// ---- processes ----

common::HttpUpgrade Container::attach(const std::vector<std::string>& argv, const std::string& user,
                                      const std::string& cwd,
                                      const std::map<std::string, std::string>& variables,
                                      bool with_input, std::string* exec_id) {
  ApiCall call;
  call.what = "start a process in a container";
  call.method = "POST";
  call.path = "/containers/" + id_ + "/exec";
  call.json = {{"AttachStdin", with_input},
               {"AttachStdout", true},
               {"AttachStderr", true},
               {"Tty", false},
               {"Cmd", argv},
               {"User", user},
               {"WorkingDir", cwd},
               {"Env", sandbox::assignments(variables)}};
  *exec_id = core_->engine.call_json(call).at("Id");
  call.path = "/exec/" + *exec_id + "/start";
  call.json = {{"Detach", false}, {"Tty", false}};
  return core_->engine.attach(call);
}

/// nullopt: it runs.
std::optional<int> Container::exit_code_of(const std::string& exec_id) {
  ApiCall call;
  call.what = "ask how a process ended";
  call.path = "/exec/" + exec_id + "/json";
  call.may_miss = true;
  const json inspected = core_->engine.call_json(call);
  if (inspected.is_null()) return 128 + 9;  // forgotten by now
  if (inspected.value("Running", false)) return std::nullopt;
  const json code = inspected.value("ExitCode", json());
  return code.is_number() ? code.get<int>() & 255 : 128 + 9;
}

Observation Container::run(const std::string& command, Deadline deadline) {
  check_open();
  const Session::Engine engine{[this](bool shell_too) { kill_processes(shell_too); },
                               [this] { end(); },
                               [this] {
                                 require_running();
                                 return exit_code_of(session_exec_);
                               }};
  try {
    Observation seen = session_->run(command, deadline, engine);
    check_open();
    return seen;
  } catch (const common::SandboxError&) {
    check_open();  // what fails because of it is no fault
    throw;
  }
}

/// While it lives, close() ends this stream too.
class Container::Listed {
 public:
  Listed(Container& container, Stream* stream) : container_(container), stream_(stream) {
    std::lock_guard lock(container_.mutex_);
    container_.streams_.insert(stream_);
    if (container_.closed_) stream_->shut();
  }
  ~Listed() {
    std::lock_guard lock(container_.mutex_);
    container_.streams_.erase(stream_);
  }
  Listed(const Listed&) = delete;
  Listed& operator=(const Listed&) = delete;

 private:
  Container& container_;
  Stream* stream_;
};

Observation Container::exec(const ExecSpec& spec, Deadline deadline) {
  check_open();
  if (spec.argv.empty()) throw common::SandboxError("exec: argv is empty");
  const Clock::time_point started = Clock::now();
  const std::string mark = new_mark();
  std::string exec_id, status;
  Stream stream(attach(exec_argv(spec.argv, mark), spec.as_root ? "0" : user_,
                       spec.cwd.empty() ? seed_.spec.workdir : spec.cwd, spec.variables, false,
                       &exec_id));
  const Listed listed(*this, &stream);
  MarkedOutput output(mark, seed_.spec.limits.output_bytes);
  const Stream::Sink sink{[&](std::string_view bytes) { output.append(bytes); },
                          [&](std::string_view bytes) { status += bytes; }};
  Observation seen;
  std::optional<int> code;
  // What the process leaves running may hold the stream open: the mark is its end, too.
  for (bool ended = false; !ended && !(output.ended() && (code = reported_code(status)));) {
    const Stream::Event event = stream.wait(deadline, sink);
    ended = event == Stream::Event::end;
    if (event != Stream::Event::deadline) continue;
    if (std::exchange(seen.timed_out, true)) break;
    kill_processes(false);
    deadline = Clock::now() + kKillGrace;
  }
  check_open();
  output.take(&seen);
  if (!code) code = reported_code(status);
  if (!code && !seen.timed_out) code = exit_code_of(exec_id);
  seen.exit_code = code.value_or(128 + 9);
  seen.duration_us =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started).count();
  return seen;
}

void Container::run_as_root(const std::string& what, const std::vector<std::string>& argv) {
  ExecSpec spec;
  spec.argv = argv;
  spec.cwd = "/";
  spec.as_root = true;
  const Observation seen = exec(spec, Deadline::max());
  if (seen.exit_code != 0)
    throw common::SandboxError(what + ": " + seen.output + "(exit code " +
                               std::to_string(seen.exit_code) + ")");
}

void Container::kill_processes(bool shell_too) {
  std::vector<std::string> argv = {"/bin/bash", "--norc", "--noprofile", "-c", kKillScript, "kill"};
  if (!shell_too) argv.push_back(session_->facts().shell_pid);
  try {
    std::string exec_id;
    Stream stream(attach(argv, "0", "/", {}, false, &exec_id));
    const Stream::Sink sink{[](std::string_view) {}, [](std::string_view) {}};
    const Deadline deadline = Clock::now() + std::chrono::seconds(20);
    for (auto event = Stream::Event::data; event == Stream::Event::data;)
      event = stream.wait(deadline, sink);
  } catch (const common::SandboxError&) {
    // No room for one more process, as under a fork bomb.
  }
}

void Container::end() {
  ApiCall call;
  call.what = "kill a container";
  call.method = "POST";
  call.path = "/containers/" + id_ + "/kill?signal=KILL";
  core_->engine.call(call);
}

// ---- files ----

/// Unpacks below a directory of the container; false when there is no such directory.
bool Container::put_archive(const std::string& directory, const std::string& tar) {
  ApiCall call;
  call.what = "write files below " + directory;
  call.method = "PUT";
  call.path = "/containers/" + id_ + "/archive?path=" + common::url_escape(directory);
  call.body = tar;
  call.may_miss = true;
  return core_->engine.call(call).status != 404;
}

void Container::require_directory(const std::string& directory) {
  run_as_root("make the directory " + directory, {"/bin/mkdir", "-p", "--", directory});
}

void Container::put_file(const std::string& path, const std::string& content, unsigned mode) {
  check_open();
  const auto [directory, name] = split_path(path);
  const std::string tar = tar_of_file(name, content, mode);
  if (put_archive(directory, tar)) return;
  require_directory(directory);
  if (!put_archive(directory, tar))
    throw common::SandboxError("write " + path + ": no such directory");
}

void Container::put_tree(const std::string& path, const std::filesystem::path& from) {
  check_open();
  const auto [directory, name] = split_path(path);
  run_as_root("clear " + path, {"/bin/sh", "-c", "rm -rf -- \"$1\" && mkdir -p -- \"$2\"",
                                "put_tree", path, directory});
  put_archive(directory, tar_of_tree(from, name, 0, 0));
}

std::optional<std::string> Container::read_file(const std::string& path, size_t max_bytes) {
  constexpr int kMostLinks = 16;
  std::string place = path;
  for (int links = 0; links <= kMostLinks && !closed_; ++links) {
    std::string tar;
    ApiCall call;
    call.what = "read " + path;
    call.path = "/containers/" + id_ + "/archive?path=" + common::url_escape(place);
    call.may_miss = true;
    call.on_body = [&](std::string_view piece) {
      tar += piece;
      return tar.size() < max_bytes + kTarHeaderBytes;
    };
    if (core_->engine.call(call).status == 404) return std::nullopt;
    TarFile file = first_of_tar(tar, max_bytes);
    if (file.regular) return std::move(file.content);
    if (file.link.empty()) return std::nullopt;
    place = file.link[0] == '/' ? file.link
                                : (std::filesystem::path(place).parent_path() / file.link).string();
  }
  return std::nullopt;
}

}  // namespace espalier::envs::container
