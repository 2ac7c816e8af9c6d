#include "tree/store_hdf5.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "common/error.h"

namespace espalier::tree::hdf5 {
namespace {

constexpr hsize_t kChunkBytes = hsize_t{64} << 10;
constexpr size_t kImageIncrementBytes = size_t{1} << 20;
constexpr unsigned kDeflateLevel = 4;
constexpr hsize_t kMaxElements = hsize_t{1}
                                 << 33;  // a damaged extent must not become an allocation

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}

/// The innermost message of the library's error stack.
std::string reason() {
  std::string text = "unknown HDF5 error";
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned n, const H5E_error2_t* error, void* out) -> herr_t {
        if (n == 0 && error->desc) *static_cast<std::string*>(out) = error->desc;
        return 0;
      },
      &text);
  H5Eclear2(H5E_DEFAULT);
  return text;
}

[[noreturn]] void throw_error(const std::string& file, const std::string& object,
                              const std::string& why) {
  throw common::StoreError("HDF5 file " + file + (object.empty() ? "" : ", " + object) + ": " +
                           why);
}

template <class Id>
Id check(Id id, const std::string& file, const std::string& object) {
  if (id < 0) throw_error(file, object, reason());
  return id;
}

// The memory of the in-memory driver is handed over when the file is closed: the image that the
// library gives of an open file has a superblock whose checksum does not match.
void* image_malloc(size_t size, H5FD_file_image_op_t, void*) { return std::malloc(size); }
void* image_copy(void* to, const void* from, size_t size, H5FD_file_image_op_t, void*) {
  return std::memcpy(to, from, size);
}
void* image_realloc(void* memory, size_t size, H5FD_file_image_op_t, void* image) {
  static_cast<Image*>(image)->capacity = size;
  return std::realloc(memory, size);
}
herr_t image_free(void* memory, H5FD_file_image_op_t operation, void* out) {
  auto* image = static_cast<Image*>(out);
  if (operation == H5FD_FILE_IMAGE_OP_FILE_CLOSE)
    image->bytes.assign(static_cast<const char*>(memory), image->capacity);
  std::free(memory);
  return 0;
}
void* same_image(void* image) { return image; }
herr_t keep_image(void*) { return 0; }

/// Where the file ends within its memory: a field of the superblock (version 2 or 3).
uint64_t end_of_file(const std::string& image) {
  constexpr size_t kVersionAt = 8, kOffsetSizeAt = 9, kEndAt = 28;
  uint64_t end = 0;
  if (image.size() < kEndAt + sizeof end || image[kVersionAt] < 2 || image[kOffsetSizeAt] != 8)
    return 0;
  for (size_t i = sizeof end; i-- > 0;) end = end << 8 | static_cast<uint8_t>(image[kEndAt + i]);
  return end <= image.size() ? end : 0;
}

Handle create(const std::string& name, Image& image) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  // From 1.10 on all metadata is checksummed, and a single chunk needs no index.
  check(H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110), name, "");
  check(H5Pset_obj_track_times(creation, false), name, "");
  check(H5Pset_fapl_core(access, kImageIncrementBytes, /*backing_store=*/false), name, "");
  H5FD_file_image_callbacks_t callbacks{image_malloc, image_copy, image_realloc, image_free,
                                        same_image,   keep_image, &image};
  check(H5Pset_file_image_callbacks(access, &callbacks), name, "");
  return {check(H5Fcreate(name.c_str(), H5F_ACC_TRUNC, creation, access), name, ""), H5Fclose};
}

}  // namespace

Session::Session() : lock_(library_mutex()) {
  // A file that could not be closed (a full disk, damage) stays open within the library, whose own
  // cleaning up at the program's exit then crashes. All there is to clean is closed by its handle.
  [[maybe_unused]] static const herr_t no_cleaning_up = H5dont_atexit();
  H5Eget_auto2(H5E_DEFAULT, &printer_, &printer_data_);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

Session::~Session() { H5Eset_auto2(H5E_DEFAULT, printer_, printer_data_); }

#define ESPALIER_HDF5_TYPE(T, file, memory) \
  template <>                               \
  hid_t file_type<T>() {                    \
    return file;                            \
  }                                         \
  template <>                               \
  hid_t memory_type<T>() {                  \
    return memory;                          \
  }
ESPALIER_HDF5_TYPE(uint8_t, H5T_STD_U8LE, H5T_NATIVE_UINT8)
ESPALIER_HDF5_TYPE(int32_t, H5T_STD_I32LE, H5T_NATIVE_INT32)
ESPALIER_HDF5_TYPE(uint64_t, H5T_STD_U64LE, H5T_NATIVE_UINT64)
ESPALIER_HDF5_TYPE(float, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT)
ESPALIER_HDF5_TYPE(double, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE)
#undef ESPALIER_HDF5_TYPE

Output::Output(const std::filesystem::path& name)
    : name_(name.string()), image_(std::make_unique<Image>()), file_(create(name_, *image_)) {}

Handle Output::group(const std::string& name) {
  const Handle creation(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
  check(H5Pset_obj_track_times(creation, false), name_, name);
  return {check(H5Gcreate2(file_, name.c_str(), H5P_DEFAULT, creation, H5P_DEFAULT), name_, name),
          H5Gclose};
}

void Output::attribute(const std::string& name, uint32_t value) {
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(
      check(H5Acreate2(file_, name.c_str(), H5T_STD_U32LE, space, H5P_DEFAULT, H5P_DEFAULT), name_,
            name),
      H5Aclose);
  check(H5Awrite(attribute, H5T_NATIVE_UINT32, &value), name_, name);
}

void Output::attribute(const std::string& name, const std::string& value) {
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(H5Tset_size(type, std::max<size_t>(value.size(), 1)), name_, name);
  check(H5Tset_strpad(type, H5T_STR_NULLPAD), name_, name);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle attribute(
      check(H5Acreate2(file_, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), name_, name),
      H5Aclose);
  check(H5Awrite(attribute, type, value.c_str()), name_, name);
}

void Output::write(hid_t group, const std::string& name, const Block& block, hid_t file,
                   hid_t memory) {
  const int rank = block.width == 1 ? 1 : 2;
  const hsize_t dims[2] = {block.rows, block.width};
  const Handle space(check(H5Screate_simple(rank, dims, nullptr), name_, name), H5Sclose);
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  check(H5Pset_obj_track_times(creation, false), name_, name);
  if (block.rows > 0) {
    const hsize_t row_bytes = block.width * block.element_bytes;
    const hsize_t chunk[2] = {std::min(block.rows, std::max<hsize_t>(kChunkBytes / row_bytes, 1)),
                              block.width};
    check(H5Pset_chunk(creation, rank, chunk), name_, name);
    if (block.element_bytes > 1) check(H5Pset_shuffle(creation), name_, name);
    check(H5Pset_deflate(creation, kDeflateLevel), name_, name);
    check(H5Pset_fletcher32(creation), name_, name);
  }
  Handle dataset(
      check(H5Dcreate2(group, name.c_str(), file, space, H5P_DEFAULT, creation, H5P_DEFAULT), name_,
            name),
      H5Dclose);
  if (block.rows > 0)
    check(H5Dwrite(dataset, memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, block.data), name_, name);
  check(dataset.close(), name_, name);  // writes the chunks that are still cached
}

std::string Output::finish() {
  check(file_.close(), name_, "");
  const uint64_t end = end_of_file(image_->bytes);
  if (end == 0) throw_error(name_, "", "the library made no file image");
  image_->bytes.resize(end);
  return std::move(image_->bytes);
}

namespace {

Handle open_for_reading(const std::string& name) {
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(access, false, true);  // shards never change: readable where locks are not
#endif
  return {check(H5Fopen(name.c_str(), H5F_ACC_RDONLY, access), name, ""), H5Fclose};
}

}  // namespace

Input::Input(const std::filesystem::path& path)
    : name_(path.string()), file_(open_for_reading(name_)) {}

Handle Input::group(const std::string& name) const {
  return {check(H5Gopen2(file_, name.c_str(), H5P_DEFAULT), name_, name), H5Gclose};
}

uint32_t Input::attribute_number(const std::string& name) const {
  const Handle attribute(check(H5Aopen(file_, name.c_str(), H5P_DEFAULT), name_, name), H5Aclose);
  const Handle space(check(H5Aget_space(attribute), name_, name), H5Sclose);
  if (H5Sget_simple_extent_npoints(space) != 1) fail(name, "not a single number");
  uint32_t value = 0;
  check(H5Aread(attribute, H5T_NATIVE_UINT32, &value), name_, name);
  return value;
}

std::string Input::attribute_text(const std::string& name) const {
  const Handle attribute(check(H5Aopen(file_, name.c_str(), H5P_DEFAULT), name_, name), H5Aclose);
  const Handle type(check(H5Aget_type(attribute), name_, name), H5Tclose);
  const Handle space(check(H5Aget_space(attribute), name_, name), H5Sclose);
  if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 ||
      H5Sget_simple_extent_npoints(space) != 1)
    fail(name, "not a fixed-length text");
  std::string value(H5Tget_size(type), '\0');
  check(H5Aread(attribute, type, value.data()), name_, name);
  return value;
}

Handle Input::open(hid_t group, const std::string& name) const {
  return {check(H5Dopen2(group, name.c_str(), H5P_DEFAULT), name_, name), H5Dclose};
}

size_t Input::elements(hid_t dataset, const std::string& name, const Expected& expected) const {
  const Handle type(check(H5Dget_type(dataset), name_, name), H5Tclose);
  if (H5Tget_class(type) != expected.type_class || H5Tget_size(type) != expected.element_bytes)
    fail(name, "elements are not of the type the format says");
  const Handle space(check(H5Dget_space(dataset), name_, name), H5Sclose);
  const int rank = expected.width == 1 ? 1 : 2;
  hsize_t dims[2] = {0, 1};
  if (H5Sget_simple_extent_ndims(space) != rank) fail(name, "wrong number of dimensions");
  check(H5Sget_simple_extent_dims(space, dims, nullptr), name_, name);
  if (dims[1] != expected.width)
    fail(name, "rows of " + std::to_string(dims[1]) +
                   " elements; allowed: " + std::to_string(expected.width));
  if (dims[0] > kMaxElements / expected.width)
    fail(name, std::to_string(dims[0]) + " rows: more than a shard may have");
  return dims[0] * expected.width;
}

void Input::read_rows(hid_t dataset, const std::string& name, hid_t memory, void* out, Rows rows,
                      hsize_t width) const {
  if (rows.count == 0) return;
  const int rank = width == 1 ? 1 : 2;
  const hsize_t start[2] = {rows.first, 0}, count[2] = {rows.count, width};
  const Handle space(check(H5Dget_space(dataset), name_, name), H5Sclose);
  check(H5Sselect_hyperslab(space, H5S_SELECT_SET, start, nullptr, count, nullptr), name_, name);
  const Handle target(check(H5Screate_simple(rank, count, nullptr), name_, name), H5Sclose);
  check(H5Dread(dataset, memory, target, space, H5P_DEFAULT, out), name_, name);
}

bool Input::has(hid_t group, const std::string& name) const {
  return check(H5Lexists(group, name.c_str(), H5P_DEFAULT), name_, name) > 0;
}

hsize_t Input::rows(hid_t group, const std::string& name) const {
  const Handle dataset = open(group, name);
  const Handle space(check(H5Dget_space(dataset), name_, name), H5Sclose);
  hsize_t dims[2] = {0, 0};
  const int rank = H5Sget_simple_extent_ndims(space);
  if (rank != 1 && rank != 2) fail(name, "wrong number of dimensions");
  check(H5Sget_simple_extent_dims(space, dims, nullptr), name_, name);
  return dims[0];
}

void Input::fail(const std::string& object, const std::string& why) const {
  throw_error(name_, object, why);
}

}  // namespace espalier::tree::hdf5
