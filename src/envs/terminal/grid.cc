#include "envs/terminal/grid.h"

#include <algorithm>

namespace espalier::envs::terminal {
namespace {

void append_utf8(std::string* out, char32_t c) {
  if (c < 0x80) {
    *out += char(c);
  } else if (c < 0x800) {
    *out += {char(0xc0 | c >> 6), char(0x80 | (c & 63))};
  } else if (c < 0x10000) {
    *out += {char(0xe0 | c >> 12), char(0x80 | (c >> 6 & 63)), char(0x80 | (c & 63))};
  } else {
    *out += {char(0xf0 | c >> 18), char(0x80 | (c >> 12 & 63)), char(0x80 | (c >> 6 & 63)),
             char(0x80 | (c & 63))};
  }
}

}  // namespace

Grid::Grid(TerminalSize size) : size_(size) {
  for (auto& rows : rows_) rows.assign(size_t(size.rows), empty_row(pen_));
}

Grid::RowPtr Grid::empty_row(const Pen& pen) const {
  Cell blank;
  blank.pen.foreground = pen.foreground;
  blank.pen.background = pen.background;
  auto row = std::make_shared<Row>();
  row->cells.assign(size_t(size_.columns), blank);
  return row;
}

const Cell& Grid::cell(int row, int column) const {
  return rows_[active_][size_t(row)]->cells[size_t(column)];
}

std::string Grid::character(int row, int column) const {
  const Row& from = *rows_[active_][size_t(row)];
  char32_t base = from.cells[size_t(column)].character;
  std::string out;
  if (base == 0 || base == kRightHalf) return out;
  append_utf8(&out, base);
  auto marks = from.marks.find(column);
  if (marks != from.marks.end())
    for (char32_t mark : marks->second) append_utf8(&out, mark);
  return out;
}

Grid::Row& Grid::writable(int row) {
  RowPtr& pointer = rows_[active_][size_t(row)];
  if (pointer.use_count() > 1) pointer = std::make_shared<Row>(*pointer);
  return *pointer;
}

/// Overwrites a cell; of a wide character whose other half stays nothing is left.
void Grid::clear(Row& row, int column, const Cell& cell) {
  auto at = row.cells.begin() + column;
  if (at->character == kRightHalf && column > 0) {
    (at - 1)->character = 0;
    row.marks.erase(column - 1);
  }
  if (column + 1 < size_.columns && (at + 1)->character == kRightHalf) (at + 1)->character = 0;
  if (!row.marks.empty()) row.marks.erase(column);
  *at = cell;
}

void Grid::put(const VTermGlyphInfo& glyph, VTermPos at) {
  if (at.row < 0 || at.row >= size_.rows || at.col < 0 || at.col >= size_.columns) return;
  Row& row = writable(at.row);
  int end = std::min(at.col + std::max(glyph.width, 1), size_.columns);
  Cell cell{kRightHalf, pen_, bool(glyph.protected_cell)};
  for (int column = at.col; column < end; ++column) clear(row, column, cell);
  row.cells[size_t(at.col)].character = glyph.chars[0];
  if (!glyph.chars[1]) return;
  std::u32string& marks = row.marks[at.col];
  for (size_t i = 1; glyph.chars[i] && i <= kMaxMarks; ++i) marks += char32_t(glyph.chars[i]);
}

void Grid::erase(VTermRect area, bool selective) {
  Cell blank;
  blank.pen.foreground = pen_.foreground;
  blank.pen.background = pen_.background;
  bool whole_rows = area.start_col == 0 && area.end_col == size_.columns && !selective;
  RowPtr empty = whole_rows ? empty_row(pen_) : nullptr;
  for (int i = area.start_row; i < area.end_row; ++i) {
    if (whole_rows) {
      rows_[active_][size_t(i)] = empty;
      continue;
    }
    Row& row = writable(i);
    for (int column = area.start_col; column < area.end_col; ++column)
      if (!selective || !row.cells[size_t(column)].is_protected) clear(row, column, blank);
  }
}

bool Grid::scroll(VTermRect area, int downward, int rightward) {
  if (rightward != 0 || area.start_col != 0 || area.end_col != size_.columns) return false;
  int height = area.end_row - area.start_row, by = std::clamp(downward, -height, height);
  auto begin = rows_[active_].begin() + area.start_row, end = begin + height;
  RowPtr empty = empty_row(pen_);
  if (by > 0) {
    std::move(begin + by, end, begin);
    std::fill(end - by, end, empty);
  } else {
    std::move_backward(begin, end + by, end);
    std::fill(begin, begin - by, empty);
  }
  return true;
}

void Grid::move(VTermRect to, VTermRect from) {
  int height = from.end_row - from.start_row, width = from.end_col - from.start_col;
  for (int i = 0; i < height; ++i) {
    int step =
        from.start_row < to.start_row ? height - 1 - i : i;  // overlapping rows: from the end
    Row source = *rows_[active_][size_t(from.start_row + step)];
    Row& target = writable(to.start_row + step);
    for (int column = 0; column < width; ++column) {
      clear(target, to.start_col + column, source.cells[size_t(from.start_col + column)]);
      auto marks = source.marks.find(from.start_col + column);
      if (marks != source.marks.end()) target.marks[to.start_col + column] = marks->second;
    }
  }
}

void Grid::set_pen(VTermAttr attribute, const VTermValue& value) {
  switch (attribute) {
    case VTERM_ATTR_BOLD:
      pen_.bold = value.boolean;
      break;
    case VTERM_ATTR_UNDERLINE:
      pen_.underline = uint8_t(value.number);
      break;
    case VTERM_ATTR_ITALIC:
      pen_.italic = value.boolean;
      break;
    case VTERM_ATTR_BLINK:
      pen_.blink = value.boolean;
      break;
    case VTERM_ATTR_REVERSE:
      pen_.reverse = value.boolean;
      break;
    case VTERM_ATTR_STRIKE:
      pen_.strike = value.boolean;
      break;
    case VTERM_ATTR_FOREGROUND:
      pen_.foreground = value.color;
      break;
    case VTERM_ATTR_BACKGROUND:
      pen_.background = value.color;
      break;
    default:
      break;
  }
}

void Grid::resize(TerminalSize size, int cursor_row) {
  int drop = std::max(0, cursor_row + 1 - size.rows);
  size_ = size;
  for (auto& rows : rows_) {
    rows.erase(rows.begin(), rows.begin() + drop);
    rows.resize(size_t(size.rows), empty_row(Pen()));
    for (RowPtr& row : rows) {
      if (row->cells.size() == size_t(size.columns)) continue;
      row = std::make_shared<Row>(*row);
      row->cells.resize(size_t(size.columns));
      row->marks.erase(row->marks.lower_bound(size.columns), row->marks.end());
    }
  }
}

}  // namespace espalier::envs::terminal
