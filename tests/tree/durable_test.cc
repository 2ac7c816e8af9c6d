#include "tree/durable.h"

#include <gtest/gtest.h>

#include "common/error.h"
#include "common/files.h"

namespace espalier::tree {
namespace {

TEST(Durable, FileSystemsThatCannotSyncADirectoryWillDo) {
  sync_directory("/proc");  // fsync says EINVAL there
  EXPECT_THROW(sync_directory("/proc/no such directory"), common::StoreError);
}

TEST(Durable, ReplacesAFileOrNamesIt) {
  const common::TempDir dir;
  common::write_file_atomically(dir.path() / "partial", "new");
  common::write_file_atomically(dir.path() / "file", "old");
  replace_durably(dir.path() / "partial", dir.path() / "file");
  EXPECT_EQ(common::read_file(dir.path() / "file"), "new");
  try {
    replace_durably(dir.path() / "partial", dir.path() / "file");
    FAIL() << "there was nothing to give the name to";
  } catch (const common::StoreError& error) {
    EXPECT_NE(std::string(error.what()).find("partial"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace espalier::tree
