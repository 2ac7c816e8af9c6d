// The cells of a terminal's two screens. Rows are shared between copies until one writes to them,
// and scrolling moves pointers to rows: libvterm's own screen layer moves every cell.
#pragma once

#include <vterm.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "envs/environment.h"

namespace espalier::envs::terminal {

/// How a cell looks.
struct Pen {
  VTermColor foreground{.type = VTERM_COLOR_DEFAULT_FG};
  VTermColor background{.type = VTERM_COLOR_DEFAULT_BG};
  uint8_t bold : 1 = 0, italic : 1 = 0, blink : 1 = 0, reverse : 1 = 0, strike : 1 = 0;
  uint8_t underline : 2 = 0;
};

struct Cell {
  char32_t character = 0;  // 0: nothing was written here
  Pen pen;
  bool is_protected = false;  // spared by selective erasure
};

/// Thread contract: a value type; one owner at a time. Positions come from libvterm and lie within.
class Grid {
 public:
  static constexpr char32_t kRightHalf = 0xffffffff;  // of a wide character
  static constexpr size_t kMaxMarks = 5;              // combined with one character

  explicit Grid(TerminalSize size);

  TerminalSize size() const { return size_; }
  const Cell& cell(int row, int column) const;
  /// UTF-8 of a cell with what is combined with it; "" where nothing was written.
  std::string character(int row, int column) const;
  bool alternate() const { return active_ == 1; }

  void put(const VTermGlyphInfo& glyph, VTermPos at);
  void erase(VTermRect area, bool selective);
  /// False when it is not whole rows that move: then move() and erase() do it.
  bool scroll(VTermRect area, int downward, int rightward);
  void move(VTermRect to, VTermRect from);
  void set_pen(VTermAttr attribute, const VTermValue& value);
  void reset_pen() { pen_ = Pen(); }
  void show_alternate(bool alternate) { active_ = alternate; }
  /// Rows above are dropped where the cursor would otherwise lie outside; new ones come below.
  void resize(TerminalSize size, int cursor_row);

 private:
  struct Row {
    std::vector<Cell> cells;
    std::map<int, std::u32string> marks;  // by column
  };
  using RowPtr = std::shared_ptr<Row>;

  RowPtr empty_row(const Pen& pen) const;
  Row& writable(int row);
  void clear(Row& row, int column, const Cell& cell);

  TerminalSize size_;
  std::vector<RowPtr> rows_[2];  // of the primary and the alternate screen
  int active_ = 0;
  Pen pen_;
};

}  // namespace espalier::envs::terminal
