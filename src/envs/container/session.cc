#include "envs/container/session.h"

#include <algorithm>
#include <optional>
#include <random>
#include <thread>

#include "common/error.h"
#include "envs/sandbox/shell.h"

namespace espalier::envs::container {
namespace {

using namespace std::chrono_literals;

constexpr auto kStartTimeout = 60s;
constexpr auto kQueryTimeout = 10s;
constexpr int kKills = 3;  // of the command's processes, before the shell is killed too
constexpr auto kKillGrace = 200ms;
constexpr auto kShellGrace = 5s;
constexpr int kInspections = 10;
constexpr auto kInspectionPause = 5ms;
constexpr size_t kMaxStatusBytes = 8 << 20;
constexpr auto kFirstLook = 500ms;
constexpr auto kLongestPause = 8s;

// bash's remarks about the missing terminal go to /dev/null; its start line mends that.
constexpr const char* kLauncher =
    "exec 200<&0 201>&2 203>&1 2>/dev/null </dev/null\n"
    "exec /bin/bash --norc --noprofile -i /dev/fd/200";

// The subshell becomes the program, as nothing of bash's own could.
constexpr const char* kExecScript =
    "exec 201>&2 203>&1 2>/dev/null </dev/null\n"
    "mark=$1; shift\n"
    "(exec -- \"$@\") 2>&1 201>&- 203>&-\n"
    "printf 'exit %d\\n' $? >&201; printf %s \"$mark\" >&203";

// From a subshell, so that the shell's own descriptors are as they are between commands.
constexpr const char* kInspection =
    "(builtin set +efu;builtin shopt -u failglob nullglob dotglob;GLOBIGNORE=;others=0;"
    "for p in /proc/[0-9]*;do case ${p#/proc/} in 1|$$|$BASHPID);;*)others=$((others+1));"
    "esac;done;"
    "builtin printf '%s\\0' $$ $UID ${GROUPS[0]} $others;"
    "for p in /proc/$$/fd/*;do builtin printf '%s ' ${p##*/};done;"
    "builtin test /proc/$$/fd/0 -ef /dev/null&&builtin printf 'null ';"
    "builtin test /proc/$$/fd/1 -ef /proc/$$/fd/203&&builtin printf 'out ';"
    "builtin test /proc/$$/fd/2 -ef /proc/$$/fd/203&&builtin printf 'error ';"
    "builtin printf '\\0')";

Deadline after(Clock::duration time) { return Clock::now() + time; }

std::vector<std::string> split_at_nul(const std::string& text) {
  std::vector<std::string> parts;
  size_t start = 0;
  for (size_t end; (end = text.find('\0', start)) != std::string::npos; start = end + 1)
    parts.push_back(text.substr(start, end - start));
  return parts;
}

}  // namespace

std::vector<std::string> session_argv() {
  return {"/bin/bash", "--norc", "--noprofile", "-c", kLauncher};
}

std::vector<std::string> exec_argv(const std::vector<std::string>& argv, const std::string& mark) {
  std::vector<std::string> all = {"/bin/bash", "--norc", "--noprofile", "-c",
                                  kExecScript, "bash",   mark};
  all.insert(all.end(), argv.begin(), argv.end());
  return all;
}

std::string new_mark() {
  static thread_local std::random_device random;
  static constexpr char kHex[] = "0123456789abcdef";
  std::string mark =
      "\x01"
      "espalier-";
  for (int i = 0; i < 4; ++i)
    for (unsigned bits = random(), k = 0; k < 8; ++k, bits >>= 4) mark += kHex[bits & 15];
  return mark + "\x02";
}

// ---- output ----

void MarkedOutput::append(std::string_view bytes) {
  if (ended_) return;
  held_ += bytes;
  const size_t mark = held_.find(mark_);
  if (mark != std::string::npos) {
    ended_ = true;
    buffer_.append(std::string_view(held_).substr(0, mark));
    held_.clear();
    return;
  }
  // The end may be the mark's beginning: from its first byte on, it is held back.
  size_t keep = std::min(mark_.size() - 1, held_.size());
  while (keep > 0 && held_.compare(held_.size() - keep, keep, mark_, 0, keep) != 0) --keep;
  buffer_.append(std::string_view(held_).substr(0, held_.size() - keep));
  held_.erase(0, held_.size() - keep);
}

void MarkedOutput::take(Observation* observation) {
  buffer_.append(held_);
  held_.clear();
  observation->output_bytes = buffer_.total_bytes();
  observation->output = buffer_.take();
}

// ---- the session ----

Session::Session(common::HttpUpgrade upgrade, size_t output_limit_bytes, const std::string& restore,
                 int last_exit_code)
    : stream_(std::move(upgrade)), output_limit_bytes_(output_limit_bytes) {
  stream_.write(sandbox::shell_start_line(false));
  query(":", kStartTimeout);  // an image without the locale has been complained of by now
  inspect();
  if (!restore.empty())
    stream_.write(":;builtin eval " + sandbox::quote(restore) + " >/dev/null 2>&1 201>&- 203>&-\n");
  last_exit_code_ = last_exit_code;
  query(":", kStartTimeout);  // the state is set, or the shell is gone
}

void Session::wait_for_status(Deadline deadline) {
  const Stream::Sink sink{[](std::string_view) {},
                          [this](std::string_view bytes) { status_ += bytes; }};
  switch (stream_.wait(deadline, sink)) {
    case Stream::Event::end:
      ended_ = true;
      throw common::SandboxError("the session's shell has ended");
    case Stream::Event::deadline:
      throw common::SandboxError("the shell does not answer");
    default:
      if (status_.size() > kMaxStatusBytes)
        throw common::SandboxError("the shell's answer is too long");
  }
}

/// Sends a line whose answer ends with kQueryEnd.
std::string Session::ask(const std::string& line, Clock::duration time) {
  status_.clear();
  stream_.write(line);
  const Deadline deadline = after(time);
  size_t end;
  while ((end = status_.rfind(sandbox::kQueryEnd)) == std::string::npos) {
    wait_for_status(deadline);
  }
  std::string answer = status_.substr(0, end);
  status_.clear();
  return answer;
}

std::string Session::query(std::string_view text, Clock::duration time) {
  return ask(sandbox::shell_query_line(text), time);
}

/// Learns who the shell is, and whether it can be written down. Errors: NotForkable.
void Session::inspect() {
  const auto parts = split_at_nul(
      ask(std::string(":;") + kInspection + " >&201 2>/dev/null;" +
              "{ builtin printf '\\0espalier-end\\0' >&201;builtin jobs >&2; } 2>/dev/null\n",
          kQueryTimeout));
  if (parts.size() != 5)
    throw common::NotForkable("not forkable: the shell's answer is incomplete");
  if (usual_descriptors_.empty()) {
    usual_descriptors_ = parts[4];
    facts_ = {parts[0], parts[1], parts[2]};
    return;
  }
  if (parts[4] != usual_descriptors_)
    throw common::NotForkable("not forkable: the shell has redirected or opened files (" +
                              parts[4] + ")");
  if (parts[3] != "0")
    throw common::NotForkable(
        "not forkable: " + parts[3] + " other process" + (parts[3] == "1" ? " runs" : "es run") +
        " beside the shell; a fork by value carries files and the shell only");
}

void Session::enter(const std::string& directory) {
  const std::string answer = query("builtin cd -- " + sandbox::quote(directory) +
                                       "&&{ builtin unset OLDPWD;builtin printf ok; }",
                                   kStartTimeout);
  if (answer != "ok")
    throw common::SandboxError("start a session: the working directory " + directory +
                               " cannot be entered");
}

std::string Session::dump() {
  if (ended_) throw common::NotForkable("not forkable: the session's shell has ended");
  try {
    // A process that is just ending is no reason to refuse.
    for (int left = kInspections; left > 0; --left) {
      try {
        inspect();
        break;
      } catch (const common::NotForkable&) {
        if (left == 1) throw;
        std::this_thread::sleep_for(kInspectionPause);
      }
    }
    const std::string names = query(sandbox::dump_names_query(), kQueryTimeout);
    return sandbox::restore_text(query(sandbox::dump_state_query(names), kQueryTimeout));
  } catch (const common::NotForkable&) {
    throw;
  } catch (const common::SandboxError& e) {
    throw common::NotForkable(std::string("not forkable: ") + e.what());
  }
}

// ---- commands ----

struct Session::Progress {
  MarkedOutput output;
  std::optional<int> exit_code{};
  bool shell_exited = false;
  bool timed_out = false;
  int kills = 0;
  Deadline deadline{};
  Deadline next_look{};  // at whether the shell is still there
  Clock::duration pause = kFirstLook;

  bool done() const { return exit_code && (output.ended() || shell_exited); }
};

void Session::interrupt() {
  interrupted_ = true;
  stream_.wake();
}

/// Takes the exit code that the shell has reported, if it has.
bool Session::take_status(Progress* progress) {
  const size_t end = status_.find('\n');
  if (end == std::string::npos || progress->exit_code) return progress->exit_code.has_value();
  progress->exit_code = std::atoi(status_.c_str()) & 255;
  status_.clear();
  return true;
}

/// Kills the command; where the shell does not come back within its grace, the shell too.
void Session::on_deadline(Progress* progress, const Engine& engine) {
  interrupted_ = false;
  progress->timed_out = true;
  if (progress->kills > kKills) {  // no room even for what would kill, say
    engine.end();
    ended_ = progress->shell_exited = true;
    progress->exit_code = 128 + 9;
    return;
  }
  const bool shell_too = progress->kills++ == kKills;
  engine.kill(shell_too);
  progress->deadline = after(shell_too ? kShellGrace : kKillGrace);
}

/// Whether the shell has ended; what it left running may hold the stream open.
bool Session::shell_is_gone(Progress* progress, const Engine& engine) {
  const std::optional<int> code = engine.exit_code();
  if (!code) {
    progress->pause = std::min<Clock::duration>(2 * progress->pause, kLongestPause);
    progress->next_look = after(progress->pause);
    return false;
  }
  ended_ = progress->shell_exited = true;
  progress->exit_code = *code;
  return true;
}

Observation Session::run(const std::string& command, Deadline deadline, const Engine& engine) {
  if (ended_) throw common::SandboxError("run a command: the session's shell has ended");
  const Clock::time_point started = Clock::now();
  const std::string mark = new_mark();
  status_.clear();
  Progress progress{MarkedOutput(mark, output_limit_bytes_)};
  progress.deadline = deadline;
  progress.next_look = after(progress.pause);
  const Stream::Sink sink{[&](std::string_view bytes) { progress.output.append(bytes); },
                          [&](std::string_view bytes) {
                            // Only exit codes belong there; what else comes is of no use.
                            if (status_.size() < kMaxStatusBytes) status_ += bytes;
                          }};
  stream_.write(sandbox::shell_command_line(command, last_exit_code_, mark));
  while (!progress.done()) {
    if (interrupted_ || Clock::now() >= progress.deadline) on_deadline(&progress, engine);
    if (progress.done()) break;
    const auto event = stream_.wait(std::min(progress.deadline, progress.next_look), sink);
    if (event == Stream::Event::end) {
      // The engine may close the stream a moment before it knows the exit code.
      while (!shell_is_gone(&progress, engine)) std::this_thread::sleep_for(kInspectionPause);
    } else if (event == Stream::Event::deadline && Clock::now() >= progress.next_look) {
      shell_is_gone(&progress, engine);
    }
    take_status(&progress);
  }
  if (progress.shell_exited) {  // what it still wrote is on its way
    const Deadline soon = after(kKillGrace);
    for (auto event = Stream::Event::data; event == Stream::Event::data;)
      event = stream_.wait(soon, sink);
  }
  Observation observation;
  progress.output.take(&observation);
  observation.exit_code = last_exit_code_ = *progress.exit_code;
  observation.timed_out = progress.timed_out;
  observation.shell_exited = progress.shell_exited;
  observation.duration_us =
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - started).count();
  return observation;
}

}  // namespace espalier::envs::container
