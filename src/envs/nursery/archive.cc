#include "envs/nursery/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <memory>

#include "common/error.h"

namespace espalier::envs::nursery {
namespace {

// Some releases of tar call a time stamp of 0 "implausibly old"; a second later is plausible to
// all.
constexpr time_t kModificationTime = 1;

la_ssize_t append(archive*, void* sink, const void* data, size_t size) {
  static_cast<std::string*>(sink)->append(static_cast<const char*>(data), size);
  return static_cast<la_ssize_t>(size);
}

void expect_ok(archive* writer, int result, const char* operation) {
  if (result >= ARCHIVE_OK) return;
  const char* reason = archive_error_string(writer);
  throw common::TaskError(std::string("tar archive: ") + operation + ": " +
                          (reason ? reason : "unknown error"));
}

}  // namespace

std::string make_tar(const std::vector<ArchiveMember>& members) {
  std::string bytes;
  std::unique_ptr<archive, decltype(&archive_write_free)> writer(archive_write_new(),
                                                                 &archive_write_free);
  archive* a = writer.get();
  expect_ok(a, archive_write_set_format_ustar(a), "set format");
  expect_ok(a, archive_write_set_bytes_in_last_block(a, 1), "set padding");
  expect_ok(a, archive_write_open(a, &bytes, nullptr, &append, nullptr), "open");
  for (const ArchiveMember& member : members) {
    std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                        &archive_entry_free);
    archive_entry_set_pathname(entry.get(), member.name.c_str());
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_uid(entry.get(), 0);
    archive_entry_set_gid(entry.get(), 0);
    archive_entry_set_mtime(entry.get(), kModificationTime, 0);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(member.content.size()));
    expect_ok(a, archive_write_header(a, entry.get()), "write header");
    if (archive_write_data(a, member.content.data(), member.content.size()) < 0)
      expect_ok(a, ARCHIVE_FATAL, "write data");
  }
  expect_ok(a, archive_write_close(a), "close");
  return bytes;
}

}  // namespace espalier::envs::nursery
