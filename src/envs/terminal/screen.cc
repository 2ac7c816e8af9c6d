#include "envs/terminal/screen.h"

#include <vterm.h>

#include <csetjmp>
#include <utility>

#include "common/error.h"
#include "envs/terminal/arena.h"
#include "envs/terminal/grid.h"

namespace espalier::envs::terminal {
namespace {

constexpr size_t kMaxReplyBytes = 64 * 1024;
// Libvterm's parser and modes take a tenth of it, whatever the size; the rest is for characters
// combined with one another.
constexpr size_t kArenaBytes = 256 * 1024;

VTermAllocatorFunctions kAllocator = {
    [](size_t bytes, void* handle) { return Arena::of(handle).allocate(bytes); },
    [](void* block, void* handle) { Arena::of(handle).release(block); }};

/// Select Graphic Rendition parameters of a colour; base is 30 or 40.
std::string colour_parameters(const VTermColor& colour, int base) {
  if (VTERM_COLOR_IS_DEFAULT_FG(&colour) || VTERM_COLOR_IS_DEFAULT_BG(&colour)) return "";
  std::string head = ";" + std::to_string(base + 8);
  if (VTERM_COLOR_IS_INDEXED(&colour)) return head + ";5;" + std::to_string(colour.indexed.idx);
  return head + ";2;" + std::to_string(colour.rgb.red) + ";" + std::to_string(colour.rgb.green) +
         ";" + std::to_string(colour.rgb.blue);
}

std::string pen_sequence(const Pen& pen) {
  std::string out = "\033[0";
  if (pen.bold) out += ";1";
  if (pen.italic) out += ";3";
  if (pen.underline == VTERM_UNDERLINE_SINGLE) out += ";4";
  if (pen.underline == VTERM_UNDERLINE_DOUBLE) out += ";21";
  if (pen.blink) out += ";5";
  if (pen.reverse) out += ";7";
  if (pen.strike) out += ";9";
  return out + colour_parameters(pen.foreground, 30) + colour_parameters(pen.background, 40) + "m";
}

std::string position_sequence(int row, int column) {
  return "\033[" + std::to_string(row + 1) + ";" + std::to_string(column + 1) + "H";
}

}  // namespace

void check_size(TerminalSize size) {
  for (int side : {size.columns, size.rows})
    if (side < 1 || side > kMaxTerminalSide)
      throw common::SandboxError("a terminal of " + std::to_string(size.columns) + " columns and " +
                                 std::to_string(size.rows) + " rows: each must be 1 to " +
                                 std::to_string(kMaxTerminalSide));
}

struct Screen::State {
  explicit State(TerminalSize size) : grid(size) {}

  VTermPos cursor() const;
  void start();
  /// Tells the emulator where its events go.
  void connect();
  void set_property(VTermProp property, const VTermValue& value);

  Grid grid;
  std::unique_ptr<Arena> arena;
  VTerm* vterm = nullptr;  // in the arena, with all it points to
  std::string replies;
  std::string title;
  bool visible = true;
};

void Screen::State::start() {
  arena = std::make_unique<Arena>(kArenaBytes);
  vterm =
      vterm_new_with_allocator(grid.size().rows, grid.size().columns, &kAllocator, arena->handle());
  vterm_set_utf8(vterm, 1);
  connect();
  vterm_state_reset(vterm_obtain_state(vterm), 1);
}

void Screen::State::connect() {
  static const VTermStateCallbacks kCallbacks = [] {
    static constexpr auto grid_of = [](void* user) -> Grid& {
      return static_cast<State*>(user)->grid;
    };
    VTermStateCallbacks callbacks{};
    callbacks.putglyph = [](VTermGlyphInfo* glyph, VTermPos at, void* user) {
      grid_of(user).put(*glyph, at);
      return 1;
    };
    callbacks.scrollrect = [](VTermRect area, int downward, int rightward, void* user) {
      return int(grid_of(user).scroll(area, downward, rightward));
    };
    callbacks.moverect = [](VTermRect to, VTermRect from, void* user) {
      grid_of(user).move(to, from);
      return 1;
    };
    callbacks.erase = [](VTermRect area, int selective, void* user) {
      grid_of(user).erase(area, selective);
      return 1;
    };
    callbacks.initpen = [](void* user) {
      grid_of(user).reset_pen();
      return 1;
    };
    callbacks.setpenattr = [](VTermAttr attribute, VTermValue* value, void* user) {
      grid_of(user).set_pen(attribute, *value);
      return 1;
    };
    callbacks.settermprop = [](VTermProp property, VTermValue* value, void* user) {
      static_cast<State*>(user)->set_property(property, *value);
      return 1;
    };
    return callbacks;
  }();
  vterm_state_set_callbacks(vterm_obtain_state(vterm), &kCallbacks, this);
  vterm_output_set_callback(
      vterm,
      [](const char* bytes, size_t size, void* user) {
        std::string& replies = static_cast<State*>(user)->replies;
        if (replies.size() + size <= kMaxReplyBytes) replies.append(bytes, size);
      },
      this);
}

void Screen::State::set_property(VTermProp property, const VTermValue& value) {
  if (property == VTERM_PROP_CURSORVISIBLE) visible = value.boolean;
  if (property == VTERM_PROP_ALTSCREEN) grid.show_alternate(value.boolean);
  if (property == VTERM_PROP_TITLE && value.string) title = value.string;
}

VTermPos Screen::State::cursor() const {
  VTermPos position{};
  vterm_state_get_cursorpos(vterm_obtain_state(vterm), &position);
  return position;
}

Screen::Screen(TerminalSize size) {
  check_size(size);
  state_ = std::make_unique<State>(size);
  state_->start();
}
Screen::Screen(std::unique_ptr<State> state) : state_(std::move(state)) {}
Screen::Screen(Screen&&) noexcept = default;
Screen& Screen::operator=(Screen&&) noexcept = default;
Screen::~Screen() = default;

Screen Screen::copy() const {
  auto out = std::make_unique<State>(TerminalSize{1, 1});
  out->arena = state_->arena->copy();
  out->vterm = state_->arena->moved(state_->vterm, *out->arena);
  out->replies = state_->replies;
  out->title = state_->title;
  out->visible = state_->visible;
  out->connect();
  out->grid = state_->grid;  // after connect(), which starts a new pen
  return Screen(std::move(out));
}

void Screen::feed(std::string_view bytes) {
  std::jmp_buf exhausted;
  // Only what is made to exhaust the arena does so (ten thousand characters combined into one); the
  // emulator then begins anew. Nothing with a destructor lies between here and the arena.
  if (setjmp(exhausted)) return state_->start();
  state_->arena->exhausted = &exhausted;
  vterm_input_write(state_->vterm, bytes.data(), bytes.size());
  state_->arena->exhausted = nullptr;
}

std::string Screen::take_replies() { return std::exchange(state_->replies, {}); }

void Screen::resize(TerminalSize size) {
  check_size(size);
  state_->grid.resize(size, cursor_row());
  vterm_set_size(state_->vterm, size.rows, size.columns);
}

TerminalSize Screen::size() const { return state_->grid.size(); }
int Screen::cursor_row() const { return state_->cursor().row; }
int Screen::cursor_column() const { return state_->cursor().col; }
bool Screen::cursor_visible() const { return state_->visible; }
bool Screen::alternate() const { return state_->grid.alternate(); }
std::string Screen::title() const { return state_->title; }

std::string Screen::row(int row) const {
  const Grid& grid = state_->grid;
  std::string out;
  size_t end = 0;
  for (int column = 0; column < grid.size().columns; ++column) {
    char32_t character = grid.cell(row, column).character;
    if (character == Grid::kRightHalf) continue;
    if (character == 0)
      out += ' ';
    else
      out += grid.character(row, column);
    if (character != 0 && character != ' ') end = out.size();
  }
  out.resize(end);
  return out;
}

std::string Screen::text() const {
  std::string out = row(0);
  for (int i = 1; i < size().rows; ++i) out += '\n' + row(i);
  return out;
}

std::string Screen::redraw() const {
  const Grid& grid = state_->grid;
  std::string out = "\033[0m\033[H\033[2J", pen = "\033[0m";
  for (int row = 0; row < grid.size().rows; ++row) {
    bool in_place = false;
    for (int column = 0; column < grid.size().columns; ++column) {
      const Cell& cell = grid.cell(row, column);
      if (cell.character == Grid::kRightHalf) continue;
      std::string wanted = pen_sequence(cell.pen);
      if (cell.character == 0 && wanted == "\033[0m") {
        in_place = false;
        continue;
      }
      if (!std::exchange(in_place, true)) out += position_sequence(row, column);
      if (wanted != pen) out += pen = wanted;
      out += cell.character ? grid.character(row, column) : " ";
    }
  }
  return out + "\033[0m" + position_sequence(cursor_row(), cursor_column());
}

}  // namespace espalier::envs::terminal
