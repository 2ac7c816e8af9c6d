#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "common/error.h"
#include "common/files.h"
#include "tree/durable.h"
#include "tree/journal.h"
#include "tree/journal_codec.h"
#include "tree/journal_file.h"
#include "tree/journal_scan.h"

namespace espalier::tree {
namespace {

constexpr uint64_t kRotateBytes = uint64_t{64} << 20;
constexpr size_t kMaxBufferBytes = size_t{8} << 20;  // appenders wait beyond it: memory is bounded
constexpr auto kSyncInterval = std::chrono::milliseconds(100);  // Durability::batch

using Clock = std::chrono::steady_clock;

}  // namespace

/// Group commit: appenders fill a buffer; one thread writes and syncs whatever has gathered.
/// Positions count the bytes appended since opening.
struct JournalWriter::Impl {
  std::filesystem::path directory;
  Durability durability;
  std::unique_ptr<JournalLock> lock;
  std::unique_ptr<AppendFile> file;
  uint32_t file_number = 1;
  uint64_t cut = 0;

  std::mutex mutex;
  std::condition_variable work, done;
  std::string buffer;
  uint64_t appended = 0, durable = 0,
           wanted = 0;  // wanted: somebody waits for this much to be durable
  bool idle = false, closing = false;
  std::exception_ptr error;
  std::thread thread;

  void open();
  void cut_tail(const std::filesystem::path& last);
  void rotate();
  void run();
  void write_batch(const std::string& batch, bool sync);
  void append(const std::string& record);
  void wait_durable(std::unique_lock<std::mutex>& held, uint64_t position);
  void close();
};

void JournalWriter::Impl::open() {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error)
    throw common::StoreError("create journal directory " + directory.string() + ": " +
                             error.message());
  lock = std::make_unique<JournalLock>(directory);
  const auto files = journal_files(directory);
  if (files.empty()) {
    file = std::make_unique<AppendFile>(journal_file(directory, file_number), 0);
  } else {
    file_number = journal_file_number(files.back());
    cut_tail(files.back());
  }
  if (file->size() == 0) file->append(file_header());
  if (durability != Durability::none) {
    file->sync();
    sync_directory(directory);
  }
}

void JournalWriter::Impl::cut_tail(const std::filesystem::path& last) {
  FrameScanner scanner(last);
  FrameScanner::Status status;
  do status = scanner.next();
  while (status == FrameScanner::Status::record);
  if (scanner.offset() == 0 && status == FrameScanner::Status::damaged)
    throw common::StoreError("open journal file " + last.string() + ": " + scanner.reason());
  cut = std::filesystem::file_size(last) - scanner.offset();
  if (status == FrameScanner::Status::damaged) {
    // Not a torn write: complete records may follow the damage, so what is cut is put aside.
    const std::string whole = common::read_file(last);
    common::write_file_atomically(last.string() + ".damaged",
                                  std::string_view(whole).substr(scanner.offset()));
  }
  file = std::make_unique<AppendFile>(last, scanner.offset());
}

void JournalWriter::Impl::rotate() {
  if (durability != Durability::none) file->sync();
  file = std::make_unique<AppendFile>(journal_file(directory, ++file_number), 0);
  file->append(file_header());
  if (durability != Durability::none) sync_directory(directory);
}

void JournalWriter::Impl::write_batch(const std::string& batch, bool sync) {
  if (!batch.empty() && file->size() >= kRotateBytes) rotate();
  file->append(batch);
  if (sync) file->sync();
}

void JournalWriter::Impl::run() {
  std::string batch;
  Clock::time_point next_sync = Clock::now() + kSyncInterval;
  uint64_t written = 0;
  std::unique_lock held(mutex);
  while (!error) {
    const bool unsynced = durability == Durability::batch && durable < written;
    auto ready = [&] { return !buffer.empty() || wanted > durable || closing; };
    idle = true;
    if (unsynced) {
      work.wait_until(held, next_sync, ready);
    } else {
      work.wait(held, ready);
    }
    idle = false;
    if (closing && buffer.empty() && wanted <= durable && !unsynced) return;
    batch.clear();
    batch.swap(buffer);
    if (batch.size() >= kMaxBufferBytes) done.notify_all();  // there is room again
    const uint64_t position = appended;
    const bool sync = durability == Durability::sync || wanted > durable ||
                      (durability == Durability::batch && (closing || Clock::now() >= next_sync));
    held.unlock();
    std::exception_ptr failed;
    try {
      write_batch(batch, sync);
    } catch (...) {
      failed = std::current_exception();
    }
    if (sync) next_sync = Clock::now() + kSyncInterval;
    held.lock();
    error = failed;
    written = position;
    if (sync && !failed) durable = position;
    done.notify_all();
  }
}

void JournalWriter::Impl::append(const std::string& record) {
  std::unique_lock held(mutex);
  done.wait(held, [&] { return buffer.size() < kMaxBufferBytes || error; });
  if (error) std::rethrow_exception(error);
  buffer += record;
  appended += record.size();
  if (idle) {
    idle = false;  // woken once, however many append before it runs
    work.notify_one();
  }
  if (durability == Durability::sync) wait_durable(held, appended);
}

void JournalWriter::Impl::wait_durable(std::unique_lock<std::mutex>& held, uint64_t position) {
  wanted = std::max(wanted, position);
  work.notify_one();
  done.wait(held, [&] { return durable >= position || error; });
  if (error) std::rethrow_exception(error);
}

void JournalWriter::Impl::close() {
  {
    std::lock_guard held(mutex);
    closing = true;
    work.notify_one();
  }
  thread.join();
}

JournalWriter::JournalWriter(const std::filesystem::path& directory, Durability durability)
    : impl_(std::make_unique<Impl>()) {
  impl_->directory = directory;
  impl_->durability = durability;
  impl_->open();
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

JournalWriter::~JournalWriter() { impl_->close(); }

void JournalWriter::append(const Event& event) {
  std::string record;
  encode_record(event, record);
  impl_->append(record);
}

void JournalWriter::flush() {
  std::unique_lock held(impl_->mutex);
  impl_->wait_durable(held, impl_->appended);
}

uint64_t JournalWriter::cut_bytes() const { return impl_->cut; }

}  // namespace espalier::tree
