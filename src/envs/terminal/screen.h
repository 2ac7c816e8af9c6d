// A terminal emulator (libvterm): bytes that programs write in, what a person would see out.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "envs/environment.h"

namespace espalier::envs::terminal {

inline constexpr int kMaxTerminalSide = 1000;  // columns or rows

/// Errors: SandboxError when a side is not within 1 .. kMaxTerminalSide.
void check_size(TerminalSize size);

/// Understands what TERM=xterm-256color says: cursor motion, scroll regions, the alternate screen,
/// colours, UTF-8 with wide and combining characters. Bytes that are no UTF-8 show as U+FFFD.
/// Memory does not grow with what is fed: about 20 bytes a cell. Copies share the rows that neither
/// has changed since. Thread contract: a value type; one owner at a time.
class Screen {
 public:
  /// Errors: SandboxError when a side is not within 1 .. kMaxTerminalSide.
  explicit Screen(TerminalSize size);
  Screen(Screen&& other) noexcept;
  Screen& operator=(Screen&& other) noexcept;
  ~Screen();

  /// A second screen in exactly this state, an escape sequence or a character half fed included:
  /// fed the same, both show and answer the same.
  Screen copy() const;

  void feed(std::string_view bytes);
  /// What the terminal answers to what was fed (cursor position, device attributes); to be written
  /// to the program. Empties it. Bounded: answers past the bound are dropped.
  std::string take_replies();

  /// Errors: as the constructor's.
  void resize(TerminalSize size);
  TerminalSize size() const;

  /// The rows, joined by newlines, without blanks at their ends; trailing empty rows are kept.
  std::string text() const;
  std::string row(int row) const;
  int cursor_row() const;
  int cursor_column() const;
  bool cursor_visible() const;
  bool alternate() const;
  std::string title() const;

  /// Bytes that show the same characters, colours and cursor on a fresh screen of this size. Modes
  /// and what the other of the two screens holds are not in them.
  std::string redraw() const;

 private:
  struct State;
  explicit Screen(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace espalier::envs::terminal
