#include "envs/image/tar_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/error.h"

namespace espalier::envs::image {
namespace {

constexpr size_t kBlockBytes = 512;

std::string hex(common::Sha256& hash) {
  auto digest = hash.finish();
  return common::to_hex(digest.data(), digest.size());
}

}  // namespace

sandbox::Fd open_for_reading(const std::filesystem::path& path, const std::string& source) {
  sandbox::Fd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st;
  if (fd && fstat(fd.get(), &st) == 0 && !S_ISREG(st.st_mode)) {
    fd.reset();
    errno = S_ISDIR(st.st_mode) ? EISDIR : EINVAL;
  }
  if (!fd)
    throw common::TaskError(source + ": open " + path.string() + ": " + std::strerror(errno));
  return fd;
}

TarStream::TarStream(sandbox::Fd file, std::string source, const std::atomic<bool>& cancelled)
    : file_(std::move(file)),
      source_(std::move(source)),
      cancelled_(cancelled),
      compressed_(archive_read_new()),
      tar_(archive_read_new()) {
  // Not "all": some filters start other programs on what an archive claims to be.
  archive_read_support_filter_gzip(compressed_.get());
  archive_read_support_filter_bzip2(compressed_.get());
  archive_read_support_filter_xz(compressed_.get());
  archive_read_support_filter_zstd(compressed_.get());
  archive_read_support_format_raw(compressed_.get());
  archive_read_support_format_tar(tar_.get());
  archive_entry* content = nullptr;
  if (archive_read_open(compressed_.get(), this, nullptr, &read_file, nullptr) != ARCHIVE_OK ||
      archive_read_next_header(compressed_.get(), &content) < ARCHIVE_WARN)
    fail(compressed_.get(), "it cannot be read");
  if (archive_read_open(tar_.get(), this, nullptr, &read_content, nullptr) != ARCHIVE_OK)
    fail(tar_.get(), "it is not a tar archive");
}

void TarStream::fail(archive* handle, const std::string& where) const {
  if (cancelled_) throw common::Cancelled("reading the image was cancelled");
  const char* why = archive_error_string(handle);
  throw common::TaskError(source_ + ": " + where + ": " + (why ? why : "the file is empty"));
}

la_ssize_t TarStream::read_file(archive* handle, void* self, const void** data) {
  auto* stream = static_cast<TarStream*>(self);
  *data = stream->file_buffer_.data();
  if (stream->cancelled_) {
    archive_set_error(handle, ECANCELED, "cancelled");
    return -1;
  }
  ssize_t n;
  do {
    n = read(stream->file_.get(), stream->file_buffer_.data(), stream->file_buffer_.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) archive_set_error(handle, errno, "read: %s", std::strerror(errno));
  if (n > 0) stream->file_hash_.update({stream->file_buffer_.data(), size_t(n)});
  return n;
}

la_ssize_t TarStream::read_content(archive* handle, void* self, const void** data) {
  auto* stream = static_cast<TarStream*>(self);
  *data = stream->content_buffer_.data();
  la_ssize_t n = archive_read_data(stream->compressed_.get(), stream->content_buffer_.data(),
                                   stream->content_buffer_.size());
  if (n < 0) {
    const char* why = archive_error_string(stream->compressed_.get());
    archive_set_error(handle, archive_errno(stream->compressed_.get()), "%s",
                      why ? why : "damaged compression");
    return -1;
  }
  std::string_view bytes(stream->content_buffer_.data(), size_t(n));
  stream->content_hash_.update(bytes);
  stream->tail_.append(bytes.substr(bytes.size() - std::min(bytes.size(), kBlockBytes)));
  if (stream->tail_.size() > kBlockBytes)
    stream->tail_.erase(0, stream->tail_.size() - kBlockBytes);
  return n;
}

archive_entry* TarStream::next() {
  archive_entry* entry = nullptr;
  int result = archive_read_next_header(tar_.get(), &entry);
  if (result == ARCHIVE_EOF) return nullptr;
  if (result < ARCHIVE_WARN) {
    if (last_member_.empty()) fail(tar_.get(), "it is not a tar archive");
    fail(tar_.get(), "it ends or is damaged after the member '" + last_member_ + "'");
  }
  const char* name = archive_entry_pathname(entry);
  last_member_ = name ? name : "?";
  return entry;
}

TarStream::Digests TarStream::finish() {
  const void* rest = nullptr;
  la_ssize_t n;
  while ((n = read_content(tar_.get(), this, &rest)) > 0) {
  }
  if (n < 0) fail(tar_.get(), "it ends or is damaged after the member '" + last_member_ + "'");
  // What follows a compressed stream still belongs to the file.
  while ((n = read_file(compressed_.get(), this, &rest)) > 0) {
  }
  if (n < 0) fail(compressed_.get(), "it cannot be read");
  bool closed = tail_.size() == kBlockBytes && tail_.find_first_not_of('\0') == std::string::npos;
  return {hex(file_hash_), hex(content_hash_), closed};
}

}  // namespace espalier::envs::image
