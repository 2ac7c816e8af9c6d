#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "common/error.h"
#include "common/files.h"
#include "tree/journal.h"
#include "tree/journal_codec.h"
#include "tree/journal_lock.h"
#include "tree/journal_scan.h"

namespace espalier::tree {
namespace {

constexpr size_t kMaxBufferBytes = size_t{8} << 20;  // appenders wait beyond it: memory is bounded
constexpr size_t kMaxKeptBytes = size_t{1} << 20;    // of what a thread keeps for its next event
constexpr auto kSyncInterval = std::chrono::milliseconds(100);  // Durability::batch
// Of batch too: what is not on disk is kept small, so that the kernel never holds up writing to
// catch up with it, and the memory that holds it is used over and over.
constexpr uint64_t kSyncBytes = uint64_t{16} << 20;         // synced before its time
constexpr uint64_t kMaxUnsyncedBytes = uint64_t{64} << 20;  // writing waits beyond it

using Clock = std::chrono::steady_clock;

/// What opening found: the file to go on with, and what of it is no complete record.
struct Tail {
  JournalPosition end;
  uint64_t cut_bytes = 0;
  std::string cut;
};

Tail find_tail(const std::filesystem::path& last, FileSystem& files) {
  FrameScanner scanner(last);
  FrameScanner::Status status;
  do status = scanner.next();
  while (status == FrameScanner::Status::record);
  const bool damaged = status == FrameScanner::Status::damaged;
  if (scanner.offset() == 0 && damaged)
    throw common::StoreError("open journal file " + last.string() + ": " + scanner.reason());
  Tail tail{{journal_file_number(last), scanner.offset()}, 0, ""};
  tail.cut_bytes = std::filesystem::file_size(last) - scanner.offset();
  if (tail.cut_bytes == 0) return tail;
  tail.cut = last.string() + ": " + std::to_string(tail.cut_bytes) + " bytes cut after byte " +
             std::to_string(scanner.offset()) + " (" +
             (damaged ? scanner.reason() : "an incomplete record") + ")";
  if (!damaged) return tail;
  // Not a torn write: complete records may follow the damage, so what is cut is put aside.
  const std::filesystem::path aside = last.string() + ".damaged";
  const std::string whole = common::read_file(last);
  replace_durably(files, aside, std::string_view(whole).substr(scanner.offset()));
  tail.cut += ", kept as " + aside.string();
  return tail;
}

}  // namespace

/// Group commit in two threads: one writes whatever has gathered in the buffer, the other makes
/// what is written durable meanwhile. Positions count the bytes appended since opening.
struct JournalWriter::Impl {
  const std::filesystem::path directory;
  const JournalOptions options;
  FileSystem& files;
  std::unique_ptr<JournalLock> lock;
  Tail tail;

  std::shared_ptr<OutputFile> file;  // the writing thread's own once it runs
  JournalPosition end;

  std::mutex mutex;
  std::condition_variable work, sync_work, done;
  std::string buffer;
  uint64_t appended = 0, written = 0, durable = 0;
  uint64_t wanted = 0;  // somebody waits for this much to be durable
  JournalPosition written_end, durable_end;
  std::vector<std::shared_ptr<OutputFile>> unsynced;  // written to since their last sync
  bool new_name = false;                              // a file was made since the last sync
  bool idle = false, closing = false, writer_done = false;
  std::exception_ptr error;
  std::thread writer, syncer;

  Impl(const std::filesystem::path& directory, const JournalOptions& options)
      : directory(directory),
        options(options),
        files(options.files ? *options.files : posix_files()) {}

  void open();
  void begin_file(uint32_t number);
  void append_bytes(std::string_view bytes);
  bool write_batch(const std::string& batch);
  void write_loop();
  void sync_loop();
  void append(const std::string& record);
  void wait_durable(std::unique_lock<std::mutex>& held, uint64_t position);
  void close();
  bool failed() const { return error != nullptr; }
  bool periodic() const { return options.durability == Durability::batch; }
  bool unsynced_reach(uint64_t bytes) const { return periodic() && written - durable >= bytes; }
};

void JournalWriter::Impl::open() {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    throw common::StoreError("create journal directory " + directory.string() + ": " +
                             error.message());
  lock = std::make_unique<JournalLock>(directory);
  const auto present = journal_files(directory);
  if (present.empty()) {
    begin_file(1);
  } else {
    tail = find_tail(present.back(), files);
    end = tail.end;
    file = files.open(present.back(), end.offset);
    if (end.offset == 0) append_bytes(file_header());
  }
  if (options.durability != Durability::none) {
    file->sync();
    files.sync_directory(directory);
  }
  written_end = durable_end = end;
  writer = std::thread([this] { write_loop(); });
  syncer = std::thread([this] { sync_loop(); });
}

void JournalWriter::Impl::begin_file(uint32_t number) {
  file = files.open(journal_file(directory, number), 0);
  end = {number, 0};
  append_bytes(file_header());
}

void JournalWriter::Impl::append_bytes(std::string_view bytes) {
  file->append(bytes);
  end.offset += bytes.size();
}

/// Whether it began a file.
bool JournalWriter::Impl::write_batch(const std::string& batch) {
  const bool rotate = end.offset >= options.rotate_bytes;
  if (rotate) begin_file(end.file + 1);
  append_bytes(batch);
  return rotate;
}

void JournalWriter::Impl::write_loop() {
  std::string batch;
  std::unique_lock held(mutex);
  for (;;) {
    idle = true;
    work.wait(held, [&] {
      return (!buffer.empty() && !unsynced_reach(kMaxUnsyncedBytes)) || closing || failed();
    });
    idle = false;
    if (failed() || buffer.empty()) break;
    batch.clear();
    batch.swap(buffer);
    if (batch.size() >= kMaxBufferBytes) done.notify_all();  // there is room again
    const uint64_t position = appended;
    held.unlock();
    std::exception_ptr failure;
    bool began = false;
    try {
      began = write_batch(batch);
    } catch (...) {
      failure = std::current_exception();
    }
    held.lock();
    if (failure && !error) error = failure;
    if (failed()) break;
    written = position;
    written_end = end;
    new_name = new_name || began;
    if (unsynced.empty() || unsynced.back() != file) unsynced.push_back(file);
    if (wanted > durable || unsynced_reach(kSyncBytes)) sync_work.notify_one();
  }
  writer_done = true;
  sync_work.notify_one();
  done.notify_all();
}

void JournalWriter::Impl::sync_loop() {
  std::unique_lock held(mutex);
  for (;;) {
    auto asked = [&] {
      return failed() || writer_done || (wanted > durable && written > durable) ||
             unsynced_reach(kSyncBytes);
    };
    const bool due = !sync_work.wait_for(held, kSyncInterval, asked);
    const bool last = writer_done;
    if (failed()) return;
    const bool sync = written > durable && (periodic() || (!due && wanted > durable));
    if (sync) {
      const uint64_t position = written;
      const JournalPosition position_end = written_end;
      const auto dirty = std::exchange(unsynced, {});
      const bool names = std::exchange(new_name, false);
      held.unlock();
      std::exception_ptr failure;
      try {
        for (const auto& written_to : dirty) written_to->sync();
        if (names) files.sync_directory(directory);
      } catch (...) {
        failure = std::current_exception();
      }
      held.lock();
      if (failure && !error) error = failure;
      if (!failure) {
        durable = position;
        durable_end = position_end;
      }
      work.notify_one();  // it may have waited for room
      done.notify_all();
    }
    if (last) return;
  }
}

void JournalWriter::Impl::append(const std::string& record) {
  std::unique_lock held(mutex);
  done.wait(held, [&] { return buffer.size() < kMaxBufferBytes || failed(); });
  if (failed()) std::rethrow_exception(error);
  buffer += record;
  appended += record.size();
  if (idle) {
    idle = false;  // woken once, however many append before it runs
    work.notify_one();
  }
  if (options.durability == Durability::sync) wait_durable(held, appended);
}

void JournalWriter::Impl::wait_durable(std::unique_lock<std::mutex>& held, uint64_t position) {
  wanted = std::max(wanted, position);
  sync_work.notify_one();
  done.wait(held, [&] { return durable >= position || failed(); });
  if (failed()) std::rethrow_exception(error);
}

void JournalWriter::Impl::close() {
  {
    std::lock_guard held(mutex);
    closing = true;
    work.notify_one();
  }
  writer.join();
  syncer.join();
}

JournalWriter::JournalWriter(const std::filesystem::path& directory, const JournalOptions& options)
    : impl_(std::make_unique<Impl>(directory, options)) {
  impl_->open();
}

JournalWriter::~JournalWriter() { impl_->close(); }

void JournalWriter::append(const Event& event) {
  thread_local std::string record;  // keeps its memory for the thread's next event
  record.clear();
  encode_record(event, record);
  impl_->append(record);
  if (record.size() > kMaxKeptBytes) std::string().swap(record);
}

void JournalWriter::flush() {
  std::unique_lock held(impl_->mutex);
  impl_->wait_durable(held, impl_->appended);
}

JournalPosition JournalWriter::position() {
  std::unique_lock held(impl_->mutex);
  impl_->wait_durable(held, impl_->appended);
  return impl_->durable_end;
}

uint64_t JournalWriter::cut_bytes() const { return impl_->tail.cut_bytes; }

std::string JournalWriter::cut() const { return impl_->tail.cut; }

}  // namespace espalier::tree
