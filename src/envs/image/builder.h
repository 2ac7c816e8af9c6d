// podman and buildah, as programs: they build Dockerfiles and hold images by name.
#pragma once

#include <atomic>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace espalier::envs::image {

/// A program on PATH; empty: none.
std::filesystem::path find_program(const std::string& name);

/// The first line of what the program says to --version. Errors: TaskError.
std::string version_of(const std::filesystem::path& program);

/// The first of podman and buildah on PATH; nullopt: neither.
struct Builder {
  std::string name;
  std::filesystem::path program;
};
std::optional<Builder> find_builder();

/// Builds and returns the image's id. Errors: TaskError with the end of what the builder said,
/// Cancelled.
std::string build(const Builder& builder, const std::filesystem::path& dockerfile,
                  const std::filesystem::path& scratch, const std::atomic<bool>& cancelled);

/// The id of an image the builder has; nullopt: it has none of this name. Errors: Cancelled.
std::optional<std::string> id_of(const Builder& builder, const std::string& name,
                                 const std::atomic<bool>& cancelled);

/// Writes the image as an archive. Errors: TaskError, Cancelled.
void save(const Builder& builder, const std::string& id, const std::filesystem::path& archive,
          const std::atomic<bool>& cancelled);

}  // namespace espalier::envs::image
