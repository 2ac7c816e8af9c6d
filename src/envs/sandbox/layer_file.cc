#include "envs/sandbox/layer_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <thread>

#include "common/error.h"

namespace espalier::envs::sandbox {
namespace {

namespace fs = std::filesystem;

constexpr size_t kReadBytes = 1 << 20;
constexpr size_t kPieceBytes = 256 << 10;
constexpr size_t kParallelBytes = 1 << 20;       // compressed by several threads from here on
constexpr uint64_t kMaxIndexBytes = 1ull << 30;  // some millions of files
constexpr int kLevel = 1;
// Of a large layer the rest is compressed faster: half as well, twice as fast.
constexpr int kFastLevel = -5;
constexpr uint64_t kFastFrom = 8 << 20;

/// Ends the file, as the content of a zstd frame that decoders skip.
struct Footer {
  uint32_t frame_magic = 0x184D2A5E;
  uint32_t frame_bytes = sizeof(Footer) - 8;
  char magic[8] = {'e', 's', 'p', 'l', 'a', 'y', 'e', 'r'};
  uint32_t version = 1;
  uint32_t reserved = 0;
  uint64_t index_offset = 0;
  uint64_t index_bytes = 0;  // compressed
};
static_assert(sizeof(Footer) == 40);

[[noreturn]] void damaged(const fs::path& path, const std::string& why) {
  throw common::StoreError("read the layer " + path.string() + ": " + why +
                           "; the file is damaged");
}

struct FreeContext {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

/// Compresses into a file that is made when there is something to write.
class Compressor {
 public:
  explicit Compressor(const fs::path& directory) : directory_(directory) {}

  void frame_begin(bool parallel) {
    if (!file_) file_.emplace(directory_);
    if (!context_) context_.reset(ZSTD_createCCtx());
    ZSTD_CCtx_reset(context_.get(), ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, kLevel);
    ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 1);
    unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 4u);
    // Refused by a libzstd without threads, which then uses this one.
    if (parallel) ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_nbWorkers, int(cores));
  }
  /// From the next job of the other threads on; without those it is refused.
  void go_faster() { ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, kFastLevel); }
  void write(std::string_view bytes) { run(bytes, ZSTD_e_continue); }
  void frame_end() { run({}, ZSTD_e_end); }
  std::optional<StagedFile>& file() { return file_; }

 private:
  void run(std::string_view bytes, ZSTD_EndDirective directive) {
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    size_t left;
    do {
      ZSTD_outBuffer out{piece_.data(), piece_.size(), 0};
      left = ZSTD_compressStream2(context_.get(), &out, &in, directive);
      if (ZSTD_isError(left))
        throw common::StoreError(std::string("compress a layer: ") + ZSTD_getErrorName(left));
      file_->append({piece_.data(), out.pos});
    } while (directive == ZSTD_e_end ? left > 0 : in.pos < in.size);
  }

  fs::path directory_;
  std::optional<StagedFile> file_;
  std::unique_ptr<ZSTD_CCtx, FreeContext> context_;
  std::vector<char> piece_ = std::vector<char>(kPieceBytes);
};

/// Hands on what a pipe delivers until its end.
void read_pipe(int fd, const std::function<void(std::string_view)>& take) {
  std::vector<char> buffer(kReadBytes);
  for (;;) {
    ssize_t n = read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw common::StoreError(std::string("read a pack: ") + std::strerror(errno));
    if (n == 0) return;
    take({buffer.data(), size_t(n)});
  }
}

/// A pipe whose reader has gone shall give an error, not a signal, in this thread.
class WithoutSigpipe {
 public:
  WithoutSigpipe() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~WithoutSigpipe() {
    timespec none{};
    if (!sigismember(&before_, SIGPIPE)) {
      while (sigtimedwait(&pipe_, nullptr, &none) < 0 && errno == EINTR) {
      }
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t pipe_, before_;
};

bool write_pipe(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) return false;
    if (n < 0) throw common::StoreError(std::string("write a pack: ") + std::strerror(errno));
    bytes.remove_prefix(size_t(n));
  }
  return true;
}

/// A layer file opened for reading.
class Reader {
 public:
  explicit Reader(const fs::path& path) : path_(path) {
    fd_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd_)
      throw common::StoreError("open the layer " + path.string() + ": " + std::strerror(errno));
    struct stat st;
    if (fstat(fd_.get(), &st)) damaged(path_, std::strerror(errno));
    if (uint64_t(st.st_size) < sizeof footer_) damaged(path_, "it is cut short");
    uint64_t end = uint64_t(st.st_size) - sizeof footer_;
    read_at(end, &footer_, sizeof footer_);
    Footer sound;
    if (std::memcmp(footer_.magic, sound.magic, sizeof sound.magic) ||
        footer_.frame_magic != sound.frame_magic || footer_.frame_bytes != sound.frame_bytes ||
        footer_.reserved != 0)
      damaged(path_, "it does not end as a layer does");
    if (footer_.version != sound.version)
      throw common::StoreError("open the layer " + path.string() + ": version " +
                               std::to_string(footer_.version) + "; this program reads " +
                               std::to_string(sound.version));
    if (footer_.index_offset > end || footer_.index_bytes != end - footer_.index_offset)
      damaged(path_, "its index is not where it should be");
  }

  LayerIndex index() {
    std::string bytes(footer_.index_bytes, '\0');
    read_at(footer_.index_offset, bytes.data(), bytes.size());
    uint64_t size = ZSTD_getFrameContentSize(bytes.data(), bytes.size());
    if (size > kMaxIndexBytes) damaged(path_, "its index has no size");
    std::string plain(size, '\0');
    size_t n = ZSTD_decompress(plain.data(), plain.size(), bytes.data(), bytes.size());
    if (ZSTD_isError(n) || n != size) damaged(path_, "its index cannot be decompressed");
    try {
      return decode_index(plain);
    } catch (const common::StoreError& e) {
      damaged(path_, e.what());
    }
  }

  /// The pack, piece by piece, until take returns false.
  void pack(const std::function<bool(std::string_view)>& take) {
    std::unique_ptr<ZSTD_DCtx, FreeContext> context(ZSTD_createDCtx());
    std::vector<char> packed(kPieceBytes), plain(kPieceBytes);
    size_t left = 1;  // of the frame: 0 when it is whole
    for (uint64_t at = 0; at < footer_.index_offset;) {
      size_t size = size_t(std::min<uint64_t>(packed.size(), footer_.index_offset - at));
      read_at(at, packed.data(), size);
      at += size;
      ZSTD_inBuffer in{packed.data(), size, 0};
      while (in.pos < in.size || left > 0) {
        ZSTD_outBuffer out{plain.data(), plain.size(), 0};
        left = ZSTD_decompressStream(context.get(), &out, &in);
        if (ZSTD_isError(left)) damaged(path_, ZSTD_getErrorName(left));
        if (out.pos > 0 && !take({plain.data(), out.pos})) return;
        if (in.pos == in.size && out.pos < out.size) break;
      }
    }
    if (left > 0) damaged(path_, "its pack is cut short");
  }

 private:
  void read_at(uint64_t offset, void* data, size_t size) {
    char* to = static_cast<char*>(data);
    while (size > 0) {
      ssize_t n = pread(fd_.get(), to, size, off_t(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) damaged(path_, n < 0 ? std::strerror(errno) : "it is cut short");
      to += n;
      offset += uint64_t(n);
      size -= size_t(n);
    }
  }

  fs::path path_;
  Fd fd_;
  Footer footer_;
};

/// The pack up to here, not compressed yet while it is small.
class PackFrame {
 public:
  explicit PackFrame(const fs::path& directory) : out_(directory) {}
  void write(std::string_view bytes) {
    written_ += bytes.size();
    if (begun_ && written_ >= kFastFrom && !std::exchange(faster_, true)) out_.go_faster();
    if (begun_) return out_.write(bytes);
    first_ += bytes;
    if (first_.size() >= kParallelBytes) begin(true);
  }
  /// Adds the index and the end.
  std::optional<StagedFile> finish(const LayerIndex& index) {
    if (!begun_) begin(false);
    out_.frame_end();
    Footer footer;
    footer.index_offset = out_.file()->bytes();
    std::string bytes = encode_index(index);
    std::string packed(ZSTD_compressBound(bytes.size()), '\0');
    size_t n = ZSTD_compress(packed.data(), packed.size(), bytes.data(), bytes.size(), kLevel);
    if (ZSTD_isError(n)) throw common::StoreError("compress the index of a layer");
    footer.index_bytes = n;
    out_.file()->append({packed.data(), n});
    out_.file()->append({reinterpret_cast<const char*>(&footer), sizeof footer});
    return std::move(out_.file());
  }

 private:
  void begin(bool parallel) {
    begun_ = true;
    out_.frame_begin(parallel);
    out_.write(first_);
    first_.clear();
  }
  Compressor out_;
  std::string first_;
  uint64_t written_ = 0;
  bool begun_ = false, faster_ = false;
};

}  // namespace

LayerWritten write_layer_file(int pack_fd, const fs::path& directory) {
  PackIndexer indexer;
  PackFrame frame(directory);
  read_pipe(pack_fd, [&](std::string_view bytes) {
    frame.write(bytes);  // other threads compress while this one hashes
    indexer.feed(bytes);
  });
  auto layer = std::make_shared<StoredLayer>();
  layer->index = indexer.finish();
  if (layer->index.entries.empty()) return {layer, std::nullopt};
  layer->id = layer_id(layer->index);
  return {layer, frame.finish(layer->index)};
}

StoredLayerPtr read_layer_index(const fs::path& path, const std::string& id) {
  auto layer = std::make_shared<StoredLayer>();
  layer->index = Reader(path).index();
  layer->id = layer_id(layer->index);
  if (layer->id != id) damaged(path, "its index is that of " + layer->id);
  return layer;
}

bool read_layer_pack(const fs::path& path, int pack_fd) {
  WithoutSigpipe guard;
  bool open = true;
  Reader(path).pack([&](std::string_view bytes) { return open = write_pipe(pack_fd, bytes); });
  return open;
}

void verify_layer_file(const fs::path& path, const std::string& id) {
  read_layer_index(path, id);
  PackIndexer indexer;
  std::string found;
  Reader reader(path);
  try {
    reader.pack([&](std::string_view bytes) {
      indexer.feed(bytes);
      return true;
    });
    found = layer_id(indexer.finish());
  } catch (const common::StoreError& e) {
    if (std::strstr(e.what(), path.c_str())) throw;
    damaged(path, e.what());
  }
  if (found != id) damaged(path, "its content is that of " + found);
}

}  // namespace espalier::envs::sandbox
