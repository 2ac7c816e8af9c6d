#!/usr/bin/env python3
"""Fails when a folder of src/ includes what its layer may not (see CONTRIBUTING.md).

  scripts/check_layers.py [ROOT]     ROOT: the repository; default: the one this script lies in

Checked: which folders a folder includes; that each heavy dependency has one owner; which headers
show LibTorch to rollout/ and app/, and how many translation units see it; the length of files.
Exit code 0: clean; 1: violations, one a line as file:line: message.
"""
import fnmatch
import pathlib
import re
import sys

MAY_INCLUDE = {
    "common": set(),
    "tree": {"common"},
    "envs": {"common"},
    "policy": {"common"},
    "learner": {"common", "tree", "policy"},
    "rollout": {"common", "tree", "envs", "policy"},
    "app": {"common", "tree", "envs", "policy", "learner", "rollout"},
}

# What is included (a pattern of the header's path), and the files that may.
OWNERS = [
    ("yaml-cpp", r"yaml-cpp/", ["common/config*"]),
    ("libcurl", r"curl/", ["common/http*"]),
    ("HDF5", r"(hdf5|hdf5_hl|H5\w*)\.h$", ["tree/store*"]),
    ("Eigen", r"Eigen/", ["tree/*"]),
    ("sandbox system calls", r"(sys/mount|sys/ptrace|linux/seccomp|seccomp)\.h$", ["envs/sandbox/*"]),
    ("toml11", r"toml(11/|\.hpp$)", ["envs/task_toml*"]),
    ("TBB", r"(tbb|oneapi/tbb)/", ["rollout/*"]),
    ("LibTorch", r"(torch|ATen|c10)/", ["policy/*", "learner/*"]),
    ("CLI11", r"CLI/", ["app/*"]),
]
TORCH = re.compile(r"(torch|ATen|c10)/")

# Headers through which rollout/ and app/ may see LibTorch.
TORCH_HEADERS = ["policy/weights.h", "policy/transformer.h", "learner/*"]

MAX_TORCH_UNITS = 25
# A file each, and seconds to compile: not counted.
SMALL_TORCH_UNITS = ["learner/losses/*"]
MAX_LINES = 500
SOURCES = {".cc", ".h", ".c", ".inc"}
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


class Source:
    def __init__(self, path, name):
        self.name = name  # relative to src/
        self.folder = name.split("/")[0]
        self.text = path.read_text(encoding="utf-8", errors="replace")
        self.lines = self.text.splitlines()
        self.includes = []  # (line, header)
        for number, line in enumerate(self.lines, 1):
            if match := INCLUDE.match(line):
                self.includes.append((number, match.group(1)))


def matches(name, patterns):
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def check_layer(source):
    allowed = MAY_INCLUDE.get(source.folder)
    if allowed is None:
        yield 1, f"folder src/{source.folder} is in no layer; known: {', '.join(MAY_INCLUDE)}"
        return
    for line, header in source.includes:
        folder = header.split("/")[0]
        if "/" in header and folder in MAY_INCLUDE and folder != source.folder and folder not in allowed:
            may = ", ".join(sorted(allowed)) or "no other folder"
            yield line, f"{source.folder}/ includes {header}; it may include {may}"


def check_owners(source):
    for line, header in source.includes:
        for what, pattern, owners in OWNERS:
            if re.match(pattern, header) and not matches(source.name, owners):
                yield line, f"{what} ({header}) is used outside its owner {', '.join(owners)}"
        if (header == "sched.h" and re.search(r"\bCLONE_\w+", source.text)
                and not matches(source.name, ["envs/sandbox/*"])):
            yield line, "sched.h with CLONE_ flags is used outside its owner envs/sandbox/*"


def check_length(source):
    if len(source.lines) > MAX_LINES:
        yield MAX_LINES + 1, f"{len(source.lines)} lines; allowed: {MAX_LINES}"


class TorchView:
    """Which files see LibTorch through which header of ours."""

    def __init__(self, sources):
        self.sources = sources
        self.closures = {}

    def headers(self, source):
        for line, header in source.includes:
            if header in self.sources:
                yield line, self.sources[header]

    def closure(self, name):
        """Files of ours that a file includes, itself among them."""
        if name not in self.closures:
            seen, waiting = {name}, [name]
            while waiting:
                for _, header in self.headers(self.sources[waiting.pop()]):
                    if header.name not in seen:
                        seen.add(header.name)
                        waiting.append(header.name)
            self.closures[name] = seen
        return self.closures[name]

    def includes_torch(self, name):
        return any(TORCH.match(header) for _, header in self.sources[name].includes)

    def units(self):
        return sorted(name for name in self.sources if name.endswith(".cc")
                      and any(self.includes_torch(header) for header in self.closure(name)))

    def check(self, source):
        if source.folder not in ("rollout", "app"):
            return
        for line, header in self.headers(source):
            for seen in sorted(self.closure(header.name)):
                folder = self.sources[seen].folder
                if (folder in ("policy", "learner") and self.includes_torch(seen)
                        and not matches(seen, TORCH_HEADERS)):
                    yield line, (f"{header.name} shows LibTorch to {source.folder}/ through {seen}; "
                                 f"only {', '.join(TORCH_HEADERS)} may")


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent)
    src = root / "src"
    if not src.is_dir():
        print(f"{src}: not a directory", file=sys.stderr)
        return 1
    sources = {}
    for path in sorted(src.rglob("*")):
        name = path.relative_to(src).as_posix()
        if path.is_file() and path.suffix in SOURCES and "/" in name:
            sources[name] = Source(path, name)
    torch = TorchView(sources)
    violations = 0
    for source in sources.values():
        for check in (check_layer, check_owners, check_length, torch.check):
            for line, message in check(source):
                print(f"src/{source.name}:{line}: {message}")
                violations += 1
    units = [name for name in torch.units() if not matches(name, SMALL_TORCH_UNITS)]
    print(f"{len(sources)} files, {len(units)} translation units see LibTorch (allowed: {MAX_TORCH_UNITS})")
    if len(units) > MAX_TORCH_UNITS:
        for name in units:
            print(f"src/{name}:1: sees LibTorch; {len(units)} units do, allowed: {MAX_TORCH_UNITS}")
        violations += 1
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
