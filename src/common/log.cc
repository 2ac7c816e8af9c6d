#include "common/log.h"

#include <spdlog/sinks/base_sink.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "common/error.h"

namespace espalier::common {
namespace {

class TerminalSink : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    // One write for the erasure and the line, so that a bar drawn by another thread cannot come
    // between.
    std::string text = is_terminal_ ? "\r\033[K" : "";
    text.append(line.data(), line.size());
    std::fwrite(text.data(), 1, text.size(), stderr);
  }
  void flush_() override { std::fflush(stderr); }

 private:
  const bool is_terminal_ = ::isatty(STDERR_FILENO) == 1;
};

}  // namespace

void init_logging(const std::filesystem::path& run_log, bool verbose) {
  std::vector<spdlog::sink_ptr> sinks;
  auto terminal = std::make_shared<TerminalSink>();
  terminal->set_level(verbose ? spdlog::level::info : spdlog::level::warn);
  terminal->set_pattern("espalier: %l: %v");
  sinks.push_back(std::move(terminal));
  if (!run_log.empty()) {
    try {
      auto file = std::make_shared<spdlog::sinks::basic_file_sink_mt>(run_log.string());
      file->set_level(spdlog::level::debug);
      file->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ [%t] %v");
      sinks.push_back(std::move(file));
    } catch (const spdlog::spdlog_ex& error) {
      throw StoreError("open log " + run_log.string() + ": " + error.what());
    }
  }
  auto logger = std::make_shared<spdlog::logger>("espalier", sinks.begin(), sinks.end());
  logger->set_level(spdlog::level::debug);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace espalier::common
