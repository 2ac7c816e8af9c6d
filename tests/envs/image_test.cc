// Images as files: what is laid out of them, and what is refused of bad ones (envs/image/image.h).
#include "envs/image/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <thread>

#include "common/error.h"
#include "envs/image/layout.h"
#include "envs/image/view.h"
#include "image_fixture.h"

namespace espalier::envs::testing {
namespace {

namespace fs = std::filesystem;
using image::Directories;
using image::Image;
using image::ImageView;
using ::testing::AllOf;
using ::testing::HasSubstr;

class Images : public ::testing::Test {
 protected:
  /// Layers as this process's own, so that the tests run as any user.
  image::LayerFormat format_;
  common::TempDir directory_{"espalier-image-test"};
  fs::path cache_ = directory_.path() / "cache";

  Image resolve(const std::string& reference) {
    image::ImageStore store({cache_, format_});
    return store.resolve(reference, Directories::copied);
  }
  std::string save(const std::string& name, const std::string& bytes) {
    write_bytes(directory_.path() / name, bytes);
    return (directory_.path() / name).string();
  }
  std::string read(const Image& image, const std::string& path) {
    return ImageView(image, format_).read(path, 1000).value_or("(none)");
  }
  /// What resolving a bad image says; and that nothing is left of it.
  std::string refusal(const std::string& reference) {
    std::string text = "(nothing was refused)";
    try {
      resolve(reference);
    } catch (const common::TaskError& error) {
      text = error.what();
    }
    for (const char* name : {"layers", "tmp", "index"})
      if (fs::exists(cache_ / "1-user" / name)) {
        EXPECT_TRUE(fs::is_empty(cache_ / "1-user" / name)) << name;
      }
    return text;
  }
  std::string refusal_of(const HandMadeTar& tar) { return refusal(save("bad.tar", tar.bytes())); }
};

TEST_F(Images, ATarballIsLaidOutWhateverItsCompression) {
  HandMadeTar tar;
  tar.directory("./").directory("etc").file("etc/name", "content").symlink("lib", "usr/lib");
  tar.file("usr/lib/x", "x", 04755).hard_link("usr/lib/y", "usr/lib/x").directory("closed", 0555);
  tar.file("closed/inside", "in").file("\xc3\xa9t\xc3\xa9", "summer");
  std::string plain = save("root.tar", tar.bytes()), identity;
  host("cd " + directory_.path().string() +
       " && gzip -k root.tar && xz -k root.tar && zstd -q root.tar");
  for (const char* suffix : {"", ".gz", ".xz", ".zst"}) {
    if (!fs::exists(plain + suffix)) continue;  // the host lacks the program
    Image image = resolve(plain + suffix);
    EXPECT_EQ(read(image, "/etc/name"), "content") << suffix;
    EXPECT_EQ(read(image, "/lib/y"), "x") << suffix;
    EXPECT_EQ(read(image, "closed/inside"), "in") << suffix;
    EXPECT_EQ(read(image, "\xc3\xa9t\xc3\xa9"), "summer") << suffix;
    if (identity.empty()) identity = image.identity;
    EXPECT_EQ(image.identity, identity) << suffix;  // of the content, so one layer for all
  }
  EXPECT_EQ(identity, "sha256:" + sha256_of(tar.bytes()));
  // Set-user-id bits are kept, and the cache is closed to others.
  struct stat st;
  ASSERT_EQ(stat((resolve(plain).layers[0] / "usr/lib/x").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 04755u);
  EXPECT_EQ(st.st_nlink, 2u);
  ASSERT_EQ(stat(cache_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 0777, 0700u);
}

TEST_F(Images, LayersGoOverOneAnotherWithTheirWhiteouts) {
  HandMadeImage made;
  made.layers.push_back(HandMadeTar()
                            .file("a/keep", "1")
                            .file("a/gone", "1")
                            .file("b/old", "1")
                            .file("c/old", "1")
                            .file("d", "file")
                            .bytes());
  made.layers.push_back(HandMadeTar()
                            .file("a/.wh.gone", "")
                            .file("b/.wh..wh..opq", "")
                            .file("b/new", "2")
                            .file(".wh.c", "")
                            .file("d/now-a-directory", "2")
                            .bytes());
  made.layers.push_back(HandMadeTar().file("c/again", "3").file("a/keep", "3").bytes());
  made.run_config =
      R"({"Env":["PATH=/opt/bin:/bin","X=a=b"],"WorkingDir":"/srv","User":"1000:1000",)"
      R"("Entrypoint":["/never"],"Cmd":["/run"]})";
  fs::path oci = directory_.path() / "oci";
  made.write_oci(oci);
  std::string archive = save("saved.tar", made.docker_archive());
  host("tar -C " + oci.string() + " -cf " + directory_.path().string() + "/oci.tar .");
  std::string identity = "sha256:" + sha256_of(made.config());
  for (const std::string& reference :
       {oci.string(), archive, (directory_.path() / "oci.tar").string()}) {
    Image image = resolve(reference);
    EXPECT_EQ(image.identity, identity) << reference;
    EXPECT_EQ(image.layers.size(), 3u);
    EXPECT_EQ(read(image, "/a/keep"), "3");
    EXPECT_EQ(read(image, "/a/gone"), "(none)");
    EXPECT_EQ(read(image, "/b/old"), "(none)");
    EXPECT_EQ(read(image, "/b/new"), "2");
    EXPECT_EQ(read(image, "/c/old"), "(none)");
    EXPECT_EQ(read(image, "/c/again"), "3");
    EXPECT_EQ(read(image, "/d/now-a-directory"), "2");
    EXPECT_EQ(image.config.variables.at("X"), "a=b");
    EXPECT_EQ(image.config.workdir, "/srv");
    EXPECT_EQ(image.config.user, "1000:1000");
  }
  // The layers were laid out once for all three.
  EXPECT_EQ(std::distance(fs::directory_iterator(cache_ / "1-user/layers"), {}), 3);
  EXPECT_TRUE(fs::is_empty(cache_ / "1-user/tmp"));
}

TEST_F(Images, AnIndexOfSeveralArchitecturesLeadsToThisMachines) {
  HandMadeImage here, elsewhere;
  here.architecture = image::machine_architecture();
  here.layers.push_back(HandMadeTar().file("name", "here").bytes());
  elsewhere.architecture = "s390x";
  elsewhere.layers.push_back(HandMadeTar().file("name", "elsewhere").bytes());
  fs::path oci = directory_.path() / "oci";
  std::string other = elsewhere.write_blobs(oci, true), own = here.write_blobs(oci, true);
  std::string index = "{\"schemaVersion\":2,\"manifests\":[" + other + "," + own + "]}";
  write_bytes(oci / "blobs/sha256" / sha256_of(index), index);
  HandMadeImage::write_index(oci, {HandMadeImage::descriptor(index)});
  EXPECT_EQ(read(resolve(oci.string()), "name"), "here");
  HandMadeImage::write_index(oci, {other});
  EXPECT_THAT([&] { resolve(oci.string()); },
              ::testing::ThrowsMessage<common::TaskError>(
                  HasSubstr("has no image for linux/" + image::machine_architecture())));
}

TEST_F(Images, ADirectoryIsCopiedWithItsLinksAndRecognisedElsewhere) {
  fs::path root = directory_.path() / "root";
  write_bytes(root / "etc/name", "content");
  fs::create_hard_link(root / "etc/name", root / "etc/other");
  fs::create_symlink("/etc/name", root / "link");
  Image image = resolve("dir:" + root.string());
  EXPECT_EQ(read(image, "/link"), "content");
  EXPECT_EQ(fs::hard_link_count(image.layers[0] / "etc/name"), 2u);
  host("cp -a " + root.string() + " " + directory_.path().string() + "/faithful");
  EXPECT_EQ(resolve("dir:" + (directory_.path() / "faithful").string()).identity, image.identity);
  write_bytes(root / "etc/name", "content of another length");
  EXPECT_NE(resolve("dir:" + root.string()).identity, image.identity);
}

TEST_F(Images, TwoAtOnceMakeALayerOnce) {
  HandMadeTar tar;
  for (int i = 0; i < 300; ++i) tar.file("d/" + std::to_string(i), std::string(3000, 'x'));
  std::string file = save("root.tar", tar.bytes());
  std::vector<std::thread> threads;
  std::vector<std::string> identities(4);
  for (std::string& identity : identities)
    threads.emplace_back([&] { identity = resolve(file).identity; });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& identity : identities) EXPECT_EQ(identity, identities[0]);
  EXPECT_EQ(std::distance(fs::directory_iterator(cache_ / "1-user/layers"), {}), 1);
  EXPECT_TRUE(fs::is_empty(cache_ / "1-user/tmp"));
}

TEST_F(Images, WhatAKilledProcessLeftIsRemovedAndTheLayerMadeAnew) {
  std::string file = save("root.tar", HandMadeTar().file("name", "content").bytes());
  fs::path half = cache_ / "1-user/tmp/4000000-0/tree/etc";
  fs::create_directories(half);
  write_bytes(half / "name", "half");
  chmod(half.c_str(), 0);
  EXPECT_EQ(read(resolve(file), "name"), "content");
  EXPECT_TRUE(fs::is_empty(cache_ / "1-user/tmp"));
}

TEST_F(Images, AChangedFileIsAnotherImage) {
  std::string file = save("root.tar", HandMadeTar().file("name", "one").bytes());
  EXPECT_EQ(read(resolve(file), "name"), "one");
  save("root.tar", HandMadeTar().file("name", "two").bytes());
  EXPECT_EQ(read(resolve(file), "name"), "two");
}

// ---- bad input ----

TEST_F(Images, NamesThatLeadOutsideAreRefused) {
  EXPECT_THAT(refusal_of(HandMadeTar().file("../evil", "x")),
              AllOf(HasSubstr("bad.tar"), HasSubstr("'../evil' has '..' in its path")));
  EXPECT_THAT(refusal_of(HandMadeTar().file("a/../../evil", "x")), HasSubstr("'..'"));
  EXPECT_THAT(refusal_of(HandMadeTar().file("/etc/evil", "x")),
              HasSubstr("'/etc/evil' has an absolute path"));
  EXPECT_THAT(refusal_of(HandMadeTar().file("ok", "x").hard_link("l", "/etc/passwd")),
              HasSubstr("hard link to '/etc/passwd', which has an absolute path"));
  EXPECT_THAT(refusal_of(HandMadeTar().hard_link("l", "../../secret")), HasSubstr("has '..'"));
  EXPECT_THAT(refusal_of(HandMadeTar().hard_link("l", "nowhere")),
              HasSubstr("no file that came before it"));
  EXPECT_FALSE(fs::exists(directory_.path() / "evil"));
  EXPECT_FALSE(fs::exists("/etc/evil"));
}

TEST_F(Images, SymbolicLinksAreNotFollowedOut) {
  std::string outside = directory_.path().string() + "/outside";
  write_bytes(outside + "/secret", "secret");
  EXPECT_THAT(refusal_of(HandMadeTar().symlink("d", outside).file("d/evil", "x")),
              HasSubstr("'d/evil' lies behind the symbolic link 'd'"));
  EXPECT_THAT(refusal_of(HandMadeTar().symlink("d", outside).hard_link("l", "d/secret")),
              HasSubstr("no file that came before it"));
  EXPECT_EQ(std::distance(fs::directory_iterator(outside), {}), 1);
  // A member replaces a link; it does not write through it.
  std::string replaced = save(
      "ok.tar", HandMadeTar().symlink("f", outside + "/secret").file("f", "own", 0600).bytes());
  EXPECT_EQ(read(resolve(replaced), "f"), "own");
  EXPECT_EQ(bytes_of_file(outside + "/secret"), "secret");
  // Nor does reading an image follow them out.
  std::string link = save("link.tar", HandMadeTar().symlink("x", outside + "/secret").bytes());
  EXPECT_EQ(read(resolve(link), "x"), "(none)");
}

TEST_F(Images, DeviceNodesAreRefused) {
  for (char type : {'3', '4'}) {
    HandMadeTar::Member node;
    node.name = "dev/sda";
    node.type = type;
    EXPECT_THAT(refusal_of(HandMadeTar().add(node)),
                AllOf(HasSubstr("bad.tar"), HasSubstr("'dev/sda' is a device node")));
  }
}

TEST_F(Images, DamagedArchivesAreRefused) {
  HandMadeTar tar;
  tar.file("first", std::string(100000, 'x')).file("second", "y");
  std::string whole = tar.bytes();
  EXPECT_THAT(refusal(save("cut.tar", whole.substr(0, 5000))),
              AllOf(HasSubstr("cut.tar"), HasSubstr("'first'"), HasSubstr("runcated")));
  EXPECT_THAT(refusal(save("cut.tar", tar.open_ended())), HasSubstr("truncated"));
  save("whole.tar", whole);
  host("gzip -k " + directory_.path().string() + "/whole.tar");
  std::string packed = bytes_of_file(directory_.path() / "whole.tar.gz");
  EXPECT_THAT(refusal(save("cut.tar.gz", packed.substr(0, packed.size() / 2))),
              HasSubstr("cut.tar.gz"));
  EXPECT_THAT(refusal(save("text.tar", "this is not an archive at all\n")),
              HasSubstr("is not a tar archive"));
  EXPECT_THAT(refusal(save("empty.tar", "")), HasSubstr("empty.tar"));
  EXPECT_THAT(refusal(directory_.path().string() + "/missing.tar"),
              HasSubstr("No such file or directory"));
  EXPECT_THAT(refusal(save("odd.tar", HandMadeTar().directory("d").file("d", "x").bytes())),
              HasSubstr("takes the place of a directory"));
}

TEST_F(Images, AnUnreadableArchiveIsRefused) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads every file";
  std::string file = save("closed.tar", HandMadeTar().file("a", "b").bytes());
  chmod(file.c_str(), 0);
  EXPECT_THAT(refusal(file), HasSubstr("Permission denied"));
}

TEST_F(Images, DigestsThatDoNotMatchAreRefused) {
  HandMadeImage made;
  made.layers.push_back(HandMadeTar().file("name", "true").bytes());
  auto layer_of = [&](const fs::path& oci) {
    for (const auto& blob : fs::directory_iterator(oci / "blobs/sha256"))
      if (bytes_of_file(blob.path())[0] != '{') return blob.path();
    return fs::path();
  };
  fs::path oci = directory_.path() / "layer";
  made.write_oci(oci);
  write_bytes(layer_of(oci), HandMadeTar().file("name", "forged").bytes());
  EXPECT_THAT(refusal(oci.string()),
              AllOf(HasSubstr("blobs/sha256/"), HasSubstr("does not match its digest")));
  oci = directory_.path() / "config";
  made.write_oci(oci);
  write_bytes(oci / "blobs/sha256" / sha256_of(made.config()), made.config() + " ");
  EXPECT_THAT(refusal(oci.string()), HasSubstr("does not match its digest"));
  // A configuration that claims another layer's content.
  HandMadeImage liar = made;
  std::string saved = liar.docker_archive();
  size_t at = saved.find("name");
  ASSERT_NE(at, std::string::npos);
  at = saved.find("true", at);
  saved.replace(at, 4, "lies");
  EXPECT_THAT(refusal(save("liar.tar", saved)), HasSubstr("does not match the configuration's"));
  oci = directory_.path() / "missing";
  made.write_oci(oci);
  fs::remove(layer_of(oci));
  EXPECT_THAT(refusal(oci.string()), HasSubstr("has no file 'blobs/sha256/"));
}

TEST_F(Images, LayoutsThatAreNoneAreRefused) {
  fs::path oci = directory_.path() / "oci";
  HandMadeImage::write_index(oci, {});
  EXPECT_THAT(refusal(oci.string()), HasSubstr("has no image for"));
  write_bytes(oci / "index.json", "{");
  EXPECT_THAT(refusal(oci.string()), HasSubstr("'index.json' is not JSON"));
  write_bytes(oci / "index.json", "{\"manifests\":[{\"digest\":\"sha256:../../../etc/passwd\"}]}");
  EXPECT_THAT(refusal(oci.string()), HasSubstr("hexadecimal digits"));
  std::string escape = "[{\"Config\":\"../../../../etc/passwd\",\"Layers\":[]}]";
  EXPECT_THAT(refusal(save("saved.tar", HandMadeTar().file("manifest.json", escape).bytes())),
              HasSubstr("it has no file '../../../../etc/passwd'"));
  HandMadeImage made;
  made.layers.push_back(HandMadeTar().file(".wh...", "").bytes());
  EXPECT_THAT(refusal(save("saved.tar", made.docker_archive())),
              HasSubstr("is a whiteout of nothing"));
}

TEST_F(Images, AFullDiskIsSaidAndLeavesNothing) {
  if (geteuid() != 0) GTEST_SKIP() << "mounting a small file system takes root";
  fs::create_directories(cache_);
  if (mount("espalier-test", cache_.c_str(), "tmpfs", 0, "size=300k"))
    GTEST_SKIP() << "mount a tmpfs: " << std::strerror(errno);
  std::string file = save("big.tar", HandMadeTar().file("big", std::string(1 << 20, 'x')).bytes());
  EXPECT_THAT([&] { resolve(file); }, ::testing::ThrowsMessage<common::StoreError>(
                                          AllOf(HasSubstr("big.tar"), HasSubstr("member 'big'"),
                                                HasSubstr("No space left on device"))));
  EXPECT_TRUE(fs::is_empty(cache_ / "1-user/layers"));
  EXPECT_TRUE(fs::is_empty(cache_ / "1-user/tmp"));
  EXPECT_EQ(umount2(cache_.c_str(), MNT_DETACH), 0);
}

TEST_F(Images, NamesOfNothingAreRefusedWithAdvice) {
  EXPECT_THAT(refusal("/"), HasSubstr("this machine's own root is the image 'host'"));
  EXPECT_THAT(refusal("dir:/nowhere"), HasSubstr("No such file or directory"));
  std::string path = std::getenv("PATH");
  setenv("PATH", "/nowhere", 1);
  EXPECT_THAT(refusal("someone/image:1"), HasSubstr("neither podman nor buildah is installed"));
  write_bytes(directory_.path() / "context/Dockerfile", "FROM scratch\n");
  EXPECT_THAT(refusal((directory_.path() / "context").string()),
              HasSubstr("neither podman nor buildah is installed"));
  setenv("PATH", path.c_str(), 1);
}

}  // namespace
}  // namespace espalier::envs::testing
