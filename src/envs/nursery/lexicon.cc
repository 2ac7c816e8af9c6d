#include "envs/nursery/lexicon.h"

#include <array>
#include <string>
#include <vector>

#include "envs/nursery/nursery.h"

namespace espalier::envs::nursery {
namespace {

constexpr std::array<std::string_view, 40> kWords = {
    "amber", "brick",  "cedar",  "delta",  "ember", "flint", "grove",  "heron", "indigo", "jade",
    "kelp",  "lemon",  "maple",  "north",  "opal",  "pearl", "quartz", "river", "stone",  "tulip",
    "umber", "velvet", "willow", "yarrow", "zinc",  "basil", "coral",  "dune",  "fern",   "gold",
    "hazel", "iris",   "lotus",  "moss",   "olive", "plum",  "reed",   "sage",  "thorn",  "wren"};

constexpr std::array<std::string_view, 8> kKeys = {"port", "host", "mode", "user",
                                                   "size", "path", "rate", "zone"};

// What is typed, what a task's files say, and what Debian's tools answer to plausible mistakes:
// whole tokens keep episodes within a small model's context.
constexpr std::string_view kPieces[] = {"cat ",
                                        "ls",
                                        "grep ",
                                        "grep -l ",
                                        "grep -c ",
                                        " *",
                                        "cp ",
                                        " out",
                                        " > out",
                                        "echo ",
                                        "sed -i s/",
                                        "tar xvf ",
                                        ".tar",
                                        "chmod +r ",
                                        "chmod +x ",
                                        "touch ",
                                        "mkdir ",
                                        "sh run",
                                        "cd ",
                                        "rm ",
                                        "mv ",
                                        "exit",
                                        "$ ",
                                        "find ",
                                        "follow ",
                                        "set ",
                                        "most ",
                                        "run",
                                        "unpack ",
                                        "read ",
                                        "walk",
                                        "luck ",
                                        "goto ",
                                        "got ",
                                        "dir ",
                                        "note",
                                        "out",
                                        "ok",
                                        "need file ",
                                        "need dir ",
                                        "need exec ",
                                        "cat: ",
                                        "grep: ",
                                        "tar: ",
                                        "bash: ",
                                        "bash: cd: ",
                                        ": command not found",
                                        ": No such file or directory",
                                        ": No such file",
                                        ": Permission denied",
                                        ": Is a directory",
                                        ": Not a directory",
                                        ": File exists",
                                        ": binary file matches",
                                        ": Cannot open",
                                        "tar: Error is not recoverable: exiting now",
                                        "cp: cannot stat '",
                                        "cp: -r not specified; omitting directory '",
                                        "cp: cannot open '",
                                        "' for reading",
                                        "cp: missing destination file operand after '",
                                        "mkdir: cannot create directory '",
                                        "chmod: cannot access '",
                                        "rm: cannot remove '",
                                        "mv: cannot stat '",
                                        "sed: can't read ",
                                        "sh: 0: cannot open ",
                                        " command timed out"};

}  // namespace

std::span<const std::string_view> words() { return kWords; }
std::span<const std::string_view> keys() { return kKeys; }

std::vector<std::string> token_pieces() {
  std::vector<std::string> pieces(kWords.begin(), kWords.end());
  pieces.insert(pieces.end(), kKeys.begin(), kKeys.end());
  pieces.insert(pieces.end(), std::begin(kPieces), std::end(kPieces));
  return pieces;
}

}  // namespace espalier::envs::nursery
