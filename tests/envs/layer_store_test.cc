// The snapshot store without sandboxes: ids, damage, several processes, tidying.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "common/error.h"
#include "common/files.h"
#include "envs/sandbox/snapshot_store.h"
#include "pack_builder.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::PackBuilder;
using ::testing::ThrowsMessage;

LayerIndex index_of(const PackBuilder& pack) {
  PackIndexer indexer;
  // In pieces of all sizes: every field is cut somewhere.
  std::string bytes = pack.ended();
  for (size_t at = 0, step = 1; at < bytes.size(); at += step, step = step % 97 + 1)
    indexer.feed(std::string_view(bytes).substr(at, step));
  return indexer.finish();
}
std::string id_of(const PackBuilder& pack) { return layer_id(index_of(pack)); }
StoredLayerPtr layer_of(const PackBuilder& pack) {
  auto layer = std::make_shared<StoredLayer>();
  layer->index = index_of(pack);
  layer->id = layer_id(layer->index);
  return layer;
}

/// Runs body in a child process; its exit status.
int in_process(const std::function<void()>& body) {
  pid_t child = fork();
  if (child == 0) {
    try {
      body();
    } catch (const std::exception& e) {
      fprintf(stderr, "%s\n", e.what());
      _exit(1);
    }
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

class LayerStoreTest : public ::testing::Test {
 protected:
  SnapshotId write(const std::vector<PackBuilder>& packs, const std::string& shell = "") {
    SnapshotWriter writer(directory_);
    std::vector<StoredLayerPtr> layers;
    for (const PackBuilder& pack : packs) layers.push_back(writer.add(pack.file().get()));
    SnapshotManifest manifest;
    manifest.base = "base";
    manifest.shell = shell;
    return writer.finish(manifest, layers);
  }
  std::vector<std::string> files(const fs::path& below) const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_ / below))
      if (entry.is_regular_file()) names.push_back(entry.path().filename());
    return names;
  }
  std::string read_pack(const std::string& layer) const {
    int ends[2];
    EXPECT_EQ(pipe(ends), 0);
    fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);  // more than these tests write
    EXPECT_TRUE(read_layer_pack(store_.layer_path(layer), ends[1]));
    close(ends[1]);
    std::string out(1 << 20, '\0');
    size_t used = 0;
    for (ssize_t n; (n = read(ends[0], out.data() + used, out.size() - used)) > 0;)
      used += size_t(n);
    close(ends[0]);
    out.resize(used);
    return out;
  }

  common::TempDir scratch_{"espalier-layer-store"};
  fs::path directory_ = scratch_.path() / "snapshots";
  SnapshotStore store_{directory_};
};

TEST_F(LayerStoreTest, IdsAreOfContentAlone) {
  PackBuilder one, later, other, mode, attribute;
  one.file("a", "text");
  later.at_time(1234).file("a", "text");
  other.file("a", "texT");
  mode.file("a", "text", 0600);
  attribute.with_xattr("user.x", "1").file("a", "text");
  EXPECT_EQ(id_of(one), id_of(later));
  EXPECT_NE(id_of(one), id_of(other));
  EXPECT_NE(id_of(one), id_of(mode));
  EXPECT_NE(id_of(one), id_of(attribute));
}

TEST_F(LayerStoreTest, AHoleIsLikeZeros) {
  std::string content(20000, '\0');
  content.replace(9000, 5, "bytes");
  content.replace(12000, 4, "more");
  PackBuilder plain, sparse, fine;
  plain.file("f", content);
  sparse.sparse("f", 20000, {{8192, content.substr(8192, 8192)}});
  fine.sparse("f", 20000, {{9000, "bytes"}, {12000, "more"}});
  EXPECT_EQ(id_of(plain), id_of(sparse));
  EXPECT_EQ(id_of(plain), id_of(fine));
  PackBuilder shorter;
  shorter.sparse("f", 19999, {{9000, "bytes"}, {12000, "more"}});
  EXPECT_NE(id_of(plain), id_of(shorter));
}

TEST_F(LayerStoreTest, HardLinksAreNotCopies) {
  PackBuilder links, other_order, copies;
  links.file("b", "x").hard_link("c", "b").file("d", "x");
  other_order.file("c", "x").hard_link("b", "c").file("d", "x");
  copies.file("b", "x").file("c", "x").file("d", "x");
  EXPECT_EQ(id_of(links), id_of(other_order));
  EXPECT_NE(id_of(links), id_of(copies));
}

TEST_F(LayerStoreTest, TheStateDoesNotDependOnTheCut) {
  PackBuilder low, middle, high, flat;
  low.directory("d").file("d/kept", "1").file("d/removed", "1").directory("e").file("e/old", "1");
  low.file("was-file", "1").file("l1", "links").hard_link("l2", "l1").hard_link("l3", "l1");
  middle.directory("d").whiteout("d/removed").opaque_directory("e").file("e/new", "1");
  middle.whiteout("was-file").file("l1", "broken off");
  high.directory("e").file("e/newer", "1").directory("was-file").file("was-file/in", "1");
  high.whiteout("etc/hosts", true);
  flat.directory("d").file("d/kept", "1").directory("e").file("e/new", "1").file("e/newer", "1");
  flat.whiteout("etc/hosts", true).file("l1", "broken off").file("l2", "links");
  flat.hard_link("l3", "l2").directory("was-file").file("was-file/in", "1");
  auto digest = state_digest({layer_of(low), layer_of(middle), layer_of(high)});
  EXPECT_EQ(digest, state_digest({layer_of(flat)}));
  EXPECT_NE(digest, state_digest({layer_of(low), layer_of(middle)}));
}

TEST_F(LayerStoreTest, MarksAndCopiesThatChangeNothingDoNotCount) {
  PackBuilder nothing, touched, in_opaque, opaque;
  touched.directory("tmp", 01777, wire::kPackCovers | wire::kPackSame).whiteout("tmp/x");
  touched.directory("own").file("own/f", "1");
  nothing.directory("own").file("own/f", "1");
  EXPECT_EQ(state_digest({layer_of(nothing)}), state_digest({layer_of(touched)}));
  opaque.directory("etc", 0755, wire::kPackCovers | wire::kPackOpaque).file("etc/f", "1");
  in_opaque.directory("etc", 0755, wire::kPackCovers | wire::kPackSame);
  in_opaque.whiteout("etc/hosts", true);
  EXPECT_EQ(state_digest({layer_of(opaque)}),
            state_digest({layer_of(opaque), layer_of(in_opaque)}));
}

TEST_F(LayerStoreTest, ALayerComesBackAsItWent) {
  PackBuilder pack;
  pack.directory("d").file("d/f", std::string(3 << 17, 'x')).symlink("s", "d/f").whiteout("w");
  SnapshotId id = write({pack}, "x=1\n");
  SnapshotManifest manifest = store_.read(id);
  EXPECT_EQ(manifest.shell, "x=1\n");
  ASSERT_EQ(manifest.layers.size(), 1u);
  EXPECT_EQ(read_pack(manifest.layers[0]), pack.ended());
  EXPECT_EQ(store_.layer(manifest.layers[0])->index.entries.size(), 4u);
  store_.verify(id);
}

TEST_F(LayerStoreTest, LayersAreSharedAndEmptyOnesNotStored) {
  PackBuilder low, high, none;
  low.file("low", "1");
  high.file("high", "1");
  SnapshotId first = write({low, high, none}), second = write({low}), third = write({low}, "y=1");
  EXPECT_NE(first.hex, second.hex);
  EXPECT_NE(second.hex, third.hex);
  EXPECT_EQ(files("layers").size(), 2u);
  EXPECT_EQ(store_.list().size(), 3u);
}

TEST_F(LayerStoreTest, CutShortIsRefusedAndLeavesNothing) {
  PackBuilder pack;
  pack.file("f", "text");
  {
    SnapshotWriter writer(directory_);
    EXPECT_THROW(writer.add(pack.cut(pack.ended().size() - 1).get()), PackCutShort);
    EXPECT_THROW(writer.add(pack.cut(30).get()), PackCutShort);
    EXPECT_THROW(writer.add(make_memory_file("pack",
                                             "no pack at all, but long enough to be one;"
                                             " no pack at all, but long enough")
                                .get()),
                 common::StoreError);
  }
  EXPECT_TRUE(files("layers").empty());
}

TEST_F(LayerStoreTest, DamageIsFoundAndNamed) {
  PackBuilder pack;
  std::string content;
  for (int i = 0; i < 2000; ++i) content += std::to_string(i * 7919) + "\n";
  pack.file("f", content);
  SnapshotId id = write({pack});
  std::string layer = store_.read(id).layers[0];
  fs::path path = store_.layer_path(layer);
  std::string sound = common::read_file(path);
  auto names_it = ThrowsMessage<common::StoreError>(HasSubstr(path.string()));
  for (size_t at = 0; at < sound.size(); at += 1 + sound.size() / 61) {
    std::string bad = sound;
    bad[at] = char(bad[at] ^ 0x10);
    common::write_file_atomically(path, bad);
    EXPECT_THAT([&] { store_.verify(id); }, names_it) << "byte " << at;
    common::write_file_atomically(path, sound.substr(0, at));
    EXPECT_THAT([&] { store_.verify(id); }, names_it) << "cut at " << at;
  }
  common::write_file_atomically(path, sound);
  store_.verify(id);
  fs::path other = store_.layer_path(std::string(64, 'a'));
  fs::rename(path, other);
  EXPECT_THAT([&] { store_.layer(std::string(64, 'a')); },
              ThrowsMessage<common::StoreError>(HasSubstr(other.string())));
  EXPECT_THAT([&] { store_.verify(id); }, names_it);
  write({pack});
  EXPECT_NO_THROW(store_.verify(id)) << "a lost layer comes back";
}

TEST_F(LayerStoreTest, ADamagedLayerIsWrittenAnew) {
  PackBuilder pack;
  pack.file("f", "text");
  SnapshotId id = write({pack});
  fs::path path = store_.layer_path(store_.read(id).layers[0]);
  common::write_file_atomically(path, "torn");
  write({pack}, "another=state");
  store_.verify(id);
}

TEST_F(LayerStoreTest, DamagedManifestsAreRefused) {
  PackBuilder pack;
  pack.file("f", "text");
  SnapshotId id = write({pack}, "shell text");
  fs::path path = store_.manifest_path(id);
  std::string sound = common::read_file(path);
  for (const std::string& part :
       {std::string("shell text"), std::string("\"base\""), store_.read(id).layers[0]}) {
    std::string bad = sound;
    size_t at = bad.find(part) + 1;
    bad[at] = bad[at] == 'e' ? 'f' : 'e';
    common::write_file_atomically(path, bad);
    EXPECT_THAT([&] { store_.read(id); },
                ThrowsMessage<common::StoreError>(HasSubstr(path.string())))
        << part;
  }
  common::write_file_atomically(path, sound.substr(0, sound.size() / 2));
  EXPECT_THROW(store_.read(id), common::StoreError);
  EXPECT_THROW(store_.read(SnapshotId{"../../etc/passwd"}), common::StoreError);
  EXPECT_THROW(store_.read(SnapshotId{std::string(64, '0')}), common::StoreError);
}

TEST_F(LayerStoreTest, ProcessesWriteTheSameLayerAtOnce) {
  PackBuilder pack;
  pack.file("big", std::string(5 << 20, 'b')).file("small", "s");
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    pid_t child = fork();
    if (child == 0) {
      try {
        for (int round = 0; round < 3; ++round) write({pack}, "shell=" + std::to_string(i % 2));
      } catch (const std::exception& e) {
        fprintf(stderr, "%s\n", e.what());
        _exit(1);
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(files("layers").size(), 1u);
  ASSERT_EQ(store_.list().size(), 2u);
  for (const SnapshotId& id : store_.list()) store_.verify(id);
}

TEST_F(LayerStoreTest, AKilledWriterLeavesNothingThatCounts) {
  PackBuilder kept, lost;
  kept.file("kept", "1");
  lost.file("lost", "1");
  SnapshotId id = write({kept});
  int status = in_process([&] {
    SnapshotWriter writer(directory_);
    writer.add(lost.file().get());
    kill(getpid(), SIGKILL);
  });
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(store_.list(), std::vector<SnapshotId>{id});
  EXPECT_EQ(files("layers").size(), 2u) << "one of them is half a layer";
  store_.collect();
  EXPECT_EQ(files("layers").size(), 1u);
  store_.verify(id);
}

TEST_F(LayerStoreTest, CollectDropsWhatNoManifestNames) {
  PackBuilder shared, own;
  shared.file("shared", "1");
  own.file("own", std::string(1000, 'o'));
  SnapshotId both = write({shared, own}), one = write({shared});
  EXPECT_EQ(store_.collect().layers, 0u);
  EXPECT_TRUE(store_.remove(both));
  EXPECT_FALSE(store_.remove(both));
  auto collected = store_.collect();
  EXPECT_EQ(collected.layers, 1u);
  EXPECT_EQ(collected.kept, 1u);
  EXPECT_GT(collected.bytes, 0u);
  store_.verify(one);
  common::write_file_atomically(store_.manifest_path(one), "{");
  EXPECT_THROW(store_.collect(), common::StoreError) << "who knows what it named";
  EXPECT_EQ(files("layers").size(), 1u);
  store_.remove(one);
  store_.collect();
  EXPECT_TRUE(files("layers").empty());
  EXPECT_EQ(SnapshotStore(scratch_.path() / "none").collect().layers, 0u);
}

TEST_F(LayerStoreTest, AGigabyteOfHoleCostsNothing) {
  PackBuilder pack;
  pack.sparse("hole", 1ull << 30, {{1 << 29, "middle"}});
  SnapshotId id = write({pack});
  fs::path path = store_.layer_path(store_.read(id).layers[0]);
  EXPECT_LT(fs::file_size(path), 4096u);
  EXPECT_EQ(store_.layer(store_.read(id).layers[0])->index.data_bytes, 6u);
  store_.verify(id);
}

TEST_F(LayerStoreTest, AFullDiskIsAnErrorThatNamesTheFile) {
  StagedFile file(scratch_.path());
  rlimit before{}, small{1 << 20, RLIM_INFINITY};
  getrlimit(RLIMIT_FSIZE, &before);
  small.rlim_max = before.rlim_max;
  signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_THAT([&] { file.append(std::string(2 << 20, 'x')); },
              ThrowsMessage<common::StoreError>(HasSubstr(scratch_.path().string())));
  setrlimit(RLIMIT_FSIZE, &before);
  signal(SIGXFSZ, SIG_DFL);
}

}  // namespace
}  // namespace espalier::envs::sandbox
