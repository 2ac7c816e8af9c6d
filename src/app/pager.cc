#include "app/pager.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

namespace espalier::app {

Pager::Pager(bool wanted) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that leaves early is no error
  const char* chosen = std::getenv("PAGER");
  const std::string command = chosen ? chosen : "less -FRX";
  if (!wanted || !::isatty(STDOUT_FILENO) || command.empty() || command == "cat") return;
  std::fflush(stdout);
  pipe_ = ::popen(command.c_str(), "w");
}

Pager::~Pager() {
  if (pipe_) ::pclose(pipe_);
}

bool Pager::print(const std::string& text) {
  if (!open_) return false;
  std::FILE* out = pipe_ ? pipe_ : stdout;
  open_ = std::fwrite(text.data(), 1, text.size(), out) == text.size();
  return open_;
}

}  // namespace espalier::app
