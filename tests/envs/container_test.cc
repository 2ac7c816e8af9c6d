// The container-engine backend beyond what every backend promises (conformance_*_test.cc): images,
// limits as the engine sees them, what stays and what is cleaned, engines that misbehave.
#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <future>

#include "common/http_server.h"
#include "engine_service.h"
#include "envs/container/backend.h"
#include "envs/container/core.h"
#include "envs/container/engine.h"
#include "envs/container/session.h"
#include "envs/container/stream.h"
#include "sandbox_fixture.h"

namespace espalier::envs::testing {
namespace {

using container::ApiCall;
using container::Engine;
using espalier::testing::each_request;
using espalier::testing::HttpServer;
using espalier::testing::ServedConnection;
using espalier::testing::ServedRequest;
using nlohmann::json;
using ::testing::HasSubstr;

class Container : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      service_ = &EngineService::shared();
    } catch (const common::SandboxError& e) {
      GTEST_SKIP() << "no container engine: " << e.what();
    }
    backend_ = make_container_backend(options());
  }
  ContainerOptions options() const {
    ContainerOptions options;
    options.socket = service_->socket();
    options.image = service_->image();
    options.snapshot_dir = directory_.path() / "snapshots";
    return options;
  }
  EnvironmentPtr create(EnvironmentSpec spec = {}) {
    return common::await<EnvironmentPtr>(
        [&](auto done) { backend_->create(spec, std::move(done)); });
  }
  std::string error_of(const EnvironmentSpec& spec) {
    try {
      create(spec);
    } catch (const common::Error& e) {
      return e.what();
    }
    return "";
  }
  /// What the engine lists ("containers", "images") of ours.
  size_t count(const std::string& what) {
    Engine engine(service_->socket());
    ApiCall call;
    call.what = "list " + what;
    call.path = "/" + what + "/json?all=1&filters=" +
                common::url_escape(json{{"label", {container::kOwnerLabel}}}.dump());
    return engine.call_json(call).size();
  }

  EngineService* service_ = nullptr;
  common::TempDir directory_{"espalier-container-test"};
  std::unique_ptr<Backend> backend_;
};

TEST_F(Container, NoImageIsEverFetched) {
  EnvironmentSpec spec;
  spec.image = "docker.io/library/none-such:1";
  EXPECT_THAT(error_of(spec), HasSubstr("holds no image 'docker.io/library/none-such:1', and none "
                                        "is fetched"));
  ContainerOptions none = options();
  none.image.clear();
  backend_ = make_container_backend(none);
  EXPECT_THAT(error_of({}), HasSubstr("set env.image"));
  EXPECT_EQ(backend_->live_environments(), 0u);
}

TEST_F(Container, AnArchiveIsImportedOnce) {
  EnvironmentSpec spec;
  spec.image = service_->root_tarball();
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment, "id -un; pwd"), "root\n/app\n") << "it names no user";
  EXPECT_EQ(output_of(*create(spec), "echo again"), "again\n");

  // What `docker save` writes is known by its manifest.
  Engine engine(service_->socket());
  ApiCall save;
  save.what = "save the image";
  save.path = "/images/" + service_->image() + "/get";
  common::write_file_atomically(directory_.path() / "saved.tar", engine.call(save).body);
  spec.image = directory_.path() / "saved.tar";
  EXPECT_EQ(output_of(*create(spec), "id -un"), "agent\n");

  common::write_file_atomically(directory_.path() / "bad.tar", "this is no archive\n");
  spec.image = directory_.path() / "bad.tar";
  EXPECT_THAT(error_of(spec), HasSubstr("bad.tar"));
}

TEST_F(Container, TheImagesOwnSettingsHold) {
  EnvironmentSpec spec;
  spec.root = true;
  spec.variables["TERM"] = "linux";
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment, "id -un; echo $HOME $TERM $LC_ALL"),
            "root\n/root linux C.UTF-8\n");
}

TEST_F(Container, SessionsItCannotGiveAreRefused) {
  EnvironmentSpec spec;
  spec.session = {"python3"};
  EXPECT_THAT(error_of(spec), HasSubstr("use env.backend=sandbox"));
  spec.session.clear();
  spec.terminal.emplace();
  EXPECT_THAT(error_of(spec), HasSubstr("use env.backend=sandbox"));
}

TEST_F(Container, LimitsAndPrivileges) {
  EnvironmentSpec spec;
  spec.limits.memory_bytes = size_t{64} << 20;
  spec.limits.disk_bytes = size_t{8} << 20;
  auto environment = create(spec);
  EXPECT_EQ(output_of(*environment, "grep -E 'NoNewPrivs|CapEff' /proc/self/status"),
            "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
  EXPECT_EQ(output_of(*environment, "ls /sys/class/net"), "lo\n");
  Observation seen = run(*environment, "head -c 9000000 /dev/zero > big");
  EXPECT_NE(seen.exit_code, 0) << "a file longer than disk_bytes";
  EXPECT_EQ(output_of(*environment, "stat -c %s big"), std::to_string(8 << 20) + "\n");
  seen = run(*environment, "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo ${#x}");
  EXPECT_THAT(seen.output, ::testing::Not(HasSubstr("200000000"))) << "memory_bytes";
}

TEST_F(Container, ContainersAndImagesOfForksGoWithTheirEnvironments) {
  const size_t containers = count("containers"), images = count("images");
  {
    auto environment = create();
    run(*environment, "echo 1 > f");
    Fork fork = fork_of(*environment);
    run(*fork.child, "echo 2 > f");
    Fork second = fork_of(*fork.child);
    EXPECT_EQ(count("containers"), containers + 3);
    EXPECT_EQ(count("images"), images + 2);
    fork.child.reset();
    EXPECT_EQ(output_of(*second.child, "cat f"), "2\n");
  }
  backend_.reset();  // waits for what was begun
  EXPECT_EQ(count("containers"), containers);
  EXPECT_EQ(count("images"), images);
}

TEST_F(Container, WhatAKilledProcessLeftIsCleaned) {
  const auto nothing = clean_containers(service_->socket(), false);
  EXPECT_TRUE(nothing.containers.empty() && nothing.images.empty());
  auto mine = create();
  run(*mine, "echo mine > f");
  // Another process makes an environment, a fork and a snapshot, and dies.
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto backend = make_container_backend(options());
    auto environment =
        common::await<EnvironmentPtr>([&](auto done) { backend->create({}, std::move(done)); });
    run(*environment, "echo theirs > f");
    auto forked = fork_of(*environment);
    const std::string id = snapshot_of(*environment).hex;
    (void)!write(pipe_ends[1], id.data(), id.size());
    kill(getpid(), SIGKILL);
  }
  close(pipe_ends[1]);
  waitpid(child, nullptr, 0);
  SnapshotId id;
  id.hex.resize(64);
  ASSERT_EQ(read(pipe_ends[0], id.hex.data(), 64), 64);
  close(pipe_ends[0]);

  EXPECT_EQ(clean_containers(service_->socket(), true).containers.size(), 2u);
  ContainerLeftovers cleaned = clean_containers(service_->socket(), false);
  EXPECT_EQ(cleaned.containers.size(), 2u);
  EXPECT_EQ(cleaned.images.size(), 1u) << "the fork's; the snapshot's is wanted";
  EXPECT_TRUE(clean_containers(service_->socket(), false).containers.empty());
  EXPECT_EQ(output_of(*mine, "cat f"), "mine\n") << "the living keep what is theirs";
  {
    auto opened =
        common::await<EnvironmentPtr>([&](auto done) { backend_->open(id, std::move(done)); });
    EXPECT_EQ(output_of(*opened, "cat f"), "theirs\n");
  }
  backend_.reset();
  mine.reset();
}

TEST_F(Container, ASnapshotWhoseImageIsGoneIsRefused) {
  auto environment = create();
  run(*environment, "echo 1 > f");
  const SnapshotId id = snapshot_of(*environment);
  environment.reset();
  Engine engine(service_->socket());
  ApiCall remove;
  remove.what = "remove the snapshot's image";
  remove.method = "DELETE";
  remove.path =
      "/images/" + std::string(container::kSnapshotRepository) + ":" + id.hex + "?force=1";
  engine.call(remove);
  try {
    common::await<EnvironmentPtr>([&](auto done) { backend_->open(id, std::move(done)); });
    FAIL() << "its image is gone";
  } catch (const common::StoreError& e) {
    EXPECT_THAT(e.what(), HasSubstr("does not hold its image"));
  }
}

TEST_F(Container, AContainerKilledFromOutsideIsAnErrorAndOthersGoOn) {
  auto environment = create();
  auto other = create();
  const std::string host = output_of(*environment, "cat /proc/self/cgroup | head -1");
  Engine engine(service_->socket());
  ApiCall list;
  list.what = "list";
  list.path = "/containers/json";
  // The newest is `other`'s.
  std::string id;
  int64_t oldest = INT64_MAX;
  for (const json& object : engine.call_json(list)) {
    const std::string candidate = object.at("Id");
    if (host.find(candidate) != std::string::npos) id = candidate;
    oldest = std::min<int64_t>(oldest, object.at("Created"));
  }
  if (id.empty()) GTEST_SKIP() << "the container cannot be told from its control group: " << host;
  std::promise<std::string> failed;
  environment->run("sleep 1000", Deadline::max(), [&](common::Result<Observation> r) {
    try {
      std::move(r).get();
      failed.set_value("no error");
    } catch (const common::SandboxError& e) {
      failed.set_value(e.what());
    }
  });
  ApiCall kill;
  kill.what = "kill";
  kill.method = "POST";
  kill.path = "/containers/" + id + "/kill";
  engine.call(kill);
  EXPECT_THAT(failed.get_future().get(), HasSubstr("has ended"));
  EXPECT_EQ(output_of(*other, "echo on"), "on\n");
}

TEST_F(Container, TheBaselineOfForksIsTimed) {
  const EngineTimings timings = time_commit_run_exec(options(), 2);
  EXPECT_THAT(timings.engine, HasSubstr("odman"));
  ASSERT_EQ(timings.commit_run_exec_ms.size(), 2u);
  for (double ms : timings.commit_run_exec_ms) EXPECT_GT(ms, 0);
}

// ---- without an engine ----

TEST(ContainerEngine, NoEngineIsSaidPlainly) {
  ContainerOptions options;
  options.socket = "/nonexistent/engine.sock";
  try {
    make_container_backend(options);
    FAIL() << "there is no engine";
  } catch (const common::Unsupported& e) {
    EXPECT_THAT(e.what(), HasSubstr("/nonexistent/engine.sock"));
    EXPECT_THAT(e.what(), HasSubstr("podman system service"));
  }
}

void answer_version(ServedConnection& connection, const std::string& least = "1.24") {
  connection.answer(200, json{{"Version", "99.1"},
                              {"MinAPIVersion", least},
                              {"Components", {{{"Name", "Engine"}, {"Version", "99.1"}}}}}
                             .dump());
}

TEST(ContainerEngine, VersionsAreAgreedOn) {
  std::string seen;
  HttpServer server(each_request([&](ServedConnection& connection, const ServedRequest& request) {
    if (request.line.find("/version") != std::string::npos)
      return answer_version(connection, "1.44");
    seen = request.line;
    connection.answer(200, "[]");
  }));
  Engine engine(server.socket());
  EXPECT_EQ(engine.name(), "Docker Engine 99.1");
  ApiCall call;
  call.path = "/images/json";
  engine.call(call);
  EXPECT_EQ(seen, "GET /v1.44/images/json HTTP/1.1");
}

TEST(ContainerEngine, ErrorsCarryTheEnginesWords) {
  HttpServer server(each_request([&](ServedConnection& connection, const ServedRequest& request) {
    if (request.line.find("/version") != std::string::npos) return answer_version(connection);
    if (request.line.find("/garbage") != std::string::npos) return connection.answer(200, "<html>");
    connection.answer(request.line.find("/none") != std::string::npos ? 404 : 500,
                      "{\"message\":\"storage is full\"}");
  }));
  Engine engine(server.socket());
  ApiCall call;
  call.what = "start a container";
  call.path = "/x";
  auto message = [&] {
    try {
      engine.call_json(call);
    } catch (const common::SandboxError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(message(), HasSubstr("start a container: the engine at " + server.socket() +
                                   " refuses (HTTP 500): storage is full"));
  call.path = "/garbage";
  EXPECT_THAT(message(), HasSubstr("what is no JSON"));
  call.path = "/none";
  EXPECT_THAT(message(), HasSubstr("HTTP 404"));
  call.may_miss = true;
  EXPECT_EQ(engine.call_json(call), nullptr);
}

std::string frame(int stream, const std::string& text) {
  std::string header(8, '\0');
  header[0] = static_cast<char>(stream);
  header[6] = static_cast<char>(text.size() >> 8);
  header[7] = static_cast<char>(text.size());
  return header + text;
}

TEST(ContainerEngine, StreamsAreToldApartHoweverTheyAreCut) {
  const std::string sent = frame(1, "out") + frame(2, "err") + frame(1, std::string(300, 'x')) +
                           frame(2, "") + frame(1, "end");
  HttpServer server([&](ServedConnection& connection) {
    ServedRequest request;
    while (connection.read_request(&request)) {
      if (request.line.find("/version") != std::string::npos) {
        answer_version(connection);
        continue;
      }
      connection.write("HTTP/1.1 101 UPGRADED\r\n\r\n");
      for (char c : sent) connection.write(std::string(1, c));
      connection.write(frame(1, "<" + connection.read_some() + ">"));
      return;
    }
  });
  Engine engine(server.socket());
  ApiCall call;
  call.method = "POST";
  call.path = "/exec/1/start";
  call.json = json::object();
  container::Stream stream(engine.attach(call));
  stream.write("hello");
  std::string out, error;
  const container::Stream::Sink sink{[&](std::string_view text) { out += text; },
                                     [&](std::string_view text) { error += text; }};
  while (stream.wait(Deadline::max(), sink) != container::Stream::Event::end) {
  }
  EXPECT_EQ(out, "out" + std::string(300, 'x') + "end<hello>");
  EXPECT_EQ(error, "err");
}

TEST(ContainerEngine, AMarkEndsOutputHoweverItIsCut) {
  const std::string mark = container::new_mark();
  EXPECT_NE(mark, container::new_mark());
  const std::string text = "a" + mark.substr(0, 5) + "b" + mark;
  for (size_t cut = 1; cut < text.size(); ++cut) {
    container::MarkedOutput output(mark, 0);
    output.append(std::string_view(text).substr(0, cut));
    EXPECT_FALSE(output.ended());
    output.append(std::string_view(text).substr(cut));
    EXPECT_TRUE(output.ended());
    Observation seen;
    output.take(&seen);
    EXPECT_EQ(seen.output, "a" + mark.substr(0, 5) + "b") << cut;
  }
}

}  // namespace
}  // namespace espalier::envs::testing
