// Runs the espalier program as a user would.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace espalier::test {

struct Finished {
  int exit_code = -1;  // 128 + signal when killed
  std::string output;  // stdout and stderr
};

/// A started program, its output going to a file. Killed and reaped when the object goes.
class Process {
 public:
  /// argv[0] is found by PATH; `directory`: working directory.
  Process(const std::vector<std::string>& argv, const std::filesystem::path& output_file,
          const std::filesystem::path& directory);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const;
  /// Waits at most timeout_s, then kills. The output so far or in all.
  Finished wait(double timeout_s);
  bool running();

 private:
  pid_t pid_ = -1;
  int status_ = -1;
  bool reaped_ = false;
  std::filesystem::path output_file_;
};

/// espalier with arguments, in the repository's root.
std::vector<std::string> espalier(std::vector<std::string> arguments);
Finished run(const std::vector<std::string>& argv, double timeout_s = 120);

}  // namespace espalier::test
