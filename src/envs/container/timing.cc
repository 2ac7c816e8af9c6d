// Commit + create + start + exec by the API alone: what a fork costs those who use an engine.

#include "common/error.h"
#include "envs/container/container.h"

namespace espalier::envs {
namespace {

using namespace container;
using nlohmann::json;

/// The calls as one would write them down, and what they made, removed with the object.
class Baseline {
 public:
  Baseline(Core& core, Seed seed) : core_(core), seed_(std::move(seed)) {
    parent_ = run(seed_.image->id());
  }
  ~Baseline() { remove("/containers/", parent_, "?force=1&v=1"); }
  Baseline(const Baseline&) = delete;
  Baseline& operator=(const Baseline&) = delete;

  double once() {
    // Something to commit, as after an agent's turn.
    exec(parent_, "echo more >> /tmp/espalier-timing");
    const Clock::time_point started = Clock::now();
    const std::string image = post("/commit?container=" + parent_ + "&pause=false", json::object());
    const std::string child = run(image);
    exec(child, ":");
    const double ms = std::chrono::duration<double, std::milli>(Clock::now() - started).count();
    remove("/containers/", child, "?force=1&v=1");
    remove("/images/", image, "?force=1");
    return ms;
  }

 private:
  std::string post(const std::string& path, const json& body) {
    ApiCall call;
    call.what = "time the engine";
    call.method = "POST";
    call.path = path;
    call.json = body;
    const std::string answer = core_.engine.call(call).body;
    return answer.empty() ? "" : json::parse(answer).value("Id", "");
  }

  void remove(const char* kind, const std::string& id, const char* how) noexcept {
    try {
      ApiCall call;
      call.what = "time the engine";
      call.method = "DELETE";
      call.path = kind + id + how;
      call.may_miss = true;
      core_.engine.call(call);
    } catch (const std::exception&) {
      // `env clean` finds what stays.
    }
  }

  std::string run(const std::string& image) {
    json request = creation_request(seed_, core_.owner);
    request["Image"] = image;
    std::string id = post("/containers/create", request);
    ApiCall start;
    start.what = "time the engine";
    start.method = "POST";
    start.path = "/containers/" + id + "/start";
    core_.engine.call(start);
    return id;
  }

  void exec(const std::string& id, const std::string& script) {
    const std::string exec_id =
        post("/containers/" + id + "/exec", {{"AttachStdout", true},
                                             {"AttachStderr", true},
                                             {"Cmd", {"/bin/bash", "-c", script}},
                                             {"User", "0"}});
    ApiCall call;
    call.what = "time the engine";
    call.method = "POST";
    call.path = "/exec/" + exec_id + "/start";
    call.json = {{"Detach", false}, {"Tty", false}};
    Stream stream(core_.engine.attach(call));
    const Stream::Sink sink{[](std::string_view) {}, [](std::string_view) {}};
    while (stream.wait(Deadline::max(), sink) != Stream::Event::end) {
    }
  }

  Core& core_;
  Seed seed_;
  std::string parent_;
};

}  // namespace

EngineTimings time_commit_run_exec(const ContainerOptions& options, int n) {
  auto core = std::make_shared<Core>(options);
  EngineTimings timings;
  timings.engine = core->engine.name();
  std::exception_ptr error;
  try {
    Seed seed;
    seed.image = core->find_image(seed.spec.image);
    Baseline baseline(*core, std::move(seed));
    for (int i = 0; i < n; ++i) timings.commit_run_exec_ms.push_back(baseline.once());
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  core->close();
  if (error) std::rethrow_exception(error);
  return timings;
}

}  // namespace espalier::envs
