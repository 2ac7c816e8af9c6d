// RAII and error translation over HDF5's C API; columns of numbers in files.
//
// HDF5 is seen by store_hdf5.cc and store.cc alone. Errors of every call: StoreError with object
// and reason.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace espalier::tree::hdf5 {

/// Serialises all use of the library (not every build is thread-safe) and silences its own error
/// printing for as long as it lives. The first object of every entry point.
class Session {
 public:
  Session();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

 private:
  std::unique_lock<std::mutex> lock_;
  H5E_auto2_t printer_ = nullptr;
  void* printer_data_ = nullptr;
};

/// Owns one HDF5 identifier.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle(hid_t id, Close close) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&&) = delete;
  /// Closes now; negative: it failed.
  herr_t close() { return close_(std::exchange(id_, -1)); }
  operator hid_t() const { return id_; }  // NOLINT(implicit): what the C API takes

 private:
  hid_t id_;
  Close close_;
};

/// Little-endian file type and native memory type of a column's elements.
template <class T>
hid_t file_type();
template <class T>
hid_t memory_type();

/// Memory of a file that is being made.
struct Image {
  std::string bytes;    // once it is closed
  size_t capacity = 0;  // before
};

/// A file being made in memory. No times are kept: the bytes depend on what is written alone.
class Output {
 public:
  /// `name`: of what is written, for messages.
  explicit Output(const std::filesystem::path& name);
  Handle group(const std::string& name);
  void attribute(const std::string& name, uint32_t value);
  void attribute(const std::string& name, const std::string& value);
  /// Rows of `width` elements (1: a one-dimensional dataset): chunked, shuffled, deflated,
  /// checksummed.
  template <class T>
  void write(hid_t group, const std::string& name, const std::vector<T>& values,
             hsize_t width = 1) {
    write(group, name, {values.data(), values.size() / width, width, sizeof(T)}, file_type<T>(),
          memory_type<T>());
  }
  /// The file's bytes; no further writes. Groups must be closed.
  std::string finish();

 private:
  struct Block {
    const void* data;
    hsize_t rows, width;
    size_t element_bytes;
  };
  void write(hid_t group, const std::string& name, const Block& block, hid_t file, hid_t memory);

  std::string name_;
  std::unique_ptr<Image> image_;  // outlives the file
  Handle file_;
};

struct Rows {
  hsize_t first = 0;
  hsize_t count = 0;
};

/// A file on disk, read-only.
class Input {
 public:
  explicit Input(const std::filesystem::path& path);
  Handle group(const std::string& name) const;
  uint32_t attribute_number(const std::string& name) const;
  std::string attribute_text(const std::string& name) const;
  /// Some rows of a dataset. StoreError unless it has them, of `width` elements of T's class.
  template <class T>
  std::vector<T> read_rows(hid_t group, const std::string& name, Rows rows,
                           hsize_t width = 1) const {
    const Handle dataset = open(group, name);
    const size_t all = elements(dataset, name, {width, sizeof(T), H5Tget_class(file_type<T>())});
    if (rows.first > all / width || rows.count > all / width - rows.first)
      fail(name, "it ends before row " + std::to_string(rows.first + rows.count));
    std::vector<T> values(rows.count * width);
    read_rows(dataset, name, memory_type<T>(), values.data(), rows, width);
    return values;
  }
  bool has(hid_t group, const std::string& name) const;
  /// Number of rows of a column.
  hsize_t rows(hid_t group, const std::string& name) const;
  [[noreturn]] void fail(const std::string& object, const std::string& reason) const;

 private:
  struct Expected {
    hsize_t width;
    size_t element_bytes;
    H5T_class_t type_class;
  };
  Handle open(hid_t group, const std::string& name) const;
  size_t elements(hid_t dataset, const std::string& name, const Expected& expected) const;
  void read_rows(hid_t dataset, const std::string& name, hid_t memory, void* out, Rows rows,
                 hsize_t width) const;

  std::string name_;
  Handle file_;
};

}  // namespace espalier::tree::hdf5
