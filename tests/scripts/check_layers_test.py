#!/usr/bin/env python3
"""Plants one violation at a time and sees scripts/check_layers.py find it, and nothing else."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts" / "check_layers.py"


class CheckLayersTest(unittest.TestCase):
    def check(self, files):
        """Exit code and the lines printed for a source tree {name in src/: content}."""
        with tempfile.TemporaryDirectory() as root:
            (pathlib.Path(root) / "src").mkdir()
            for name, content in files.items():
                path = pathlib.Path(root) / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content)
            done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines()

    def assert_clean(self, files):
        code, lines = self.check(files)
        self.assertEqual((code, len(lines)), (0, 1), lines)

    def assert_found(self, files, place, *words):
        code, lines = self.check(files)
        self.assertEqual(code, 1)
        self.assertEqual(len(lines), 2, lines)
        self.assertTrue(lines[0].startswith(f"src/{place}: "), lines[0])
        for word in words:
            self.assertIn(word, lines[0])

    def test_what_a_layer_may_include(self):
        self.assert_clean({
            "common/error.h": "",
            "tree/tree.cc": '#include "common/error.h"\n#include "tree/tree.h"\n#include <string>\n',
            "app/main.cc": '#include "learner/learner.h"\n#include "rollout/farm.h"\n',
            "common/config.cc": "#include <yaml-cpp/yaml.h>\n",
            "envs/sandbox/init/spawn.c": "#include <sched.h>\nint f = CLONE_NEWNS;\n",
        })

    def test_a_folder_above(self):
        for name, header in [("common/a.cc", "tree/tree.h"), ("tree/a.cc", "envs/task.h"),
                             ("envs/a.h", "policy/policy.h"), ("policy/a.cc", "envs/task.h"),
                             ("learner/a.cc", "rollout/farm.h"), ("rollout/a.cc", "learner/loss.h")]:
            self.assert_found({name: f'\n#include "{header}"\n'}, f"{name}:2", header)

    def test_a_folder_that_is_in_no_layer(self):
        self.assert_found({"extra/a.cc": ""}, "extra/a.cc:1", "in no layer")

    def test_heavy_dependencies_outside_their_owner(self):
        for name, header in [("tree/a.cc", "yaml-cpp/yaml.h"), ("common/metrics.cc", "yaml-cpp/yaml.h"),
                             ("policy/a.cc", "curl/curl.h"), ("tree/journal.cc", "hdf5.h"),
                             ("learner/a.cc", "Eigen/Dense"), ("envs/a.cc", "sys/mount.h"),
                             ("app/doctor.cc", "linux/seccomp.h"), ("envs/a.cc", "seccomp.h"),
                             ("policy/a.cc", "tbb/task.h"), ("envs/a.cc", "oneapi/tbb/task.h"),
                             ("rollout/a.cc", "ATen/core/Tensor.h"), ("tree/a.cc", "torch/torch.h"),
                             ("rollout/a.cc", "CLI/CLI.hpp")]:
            with self.subTest(name=name, header=header):
                code, lines = self.check({name: f"#include <{header}>\n"})
                self.assertEqual(code, 1)
                self.assertIn(f"src/{name}:1: ", lines[0])
                self.assertIn("outside its owner", lines[0])

    def test_sched_only_with_clone_flags(self):
        self.assert_clean({"rollout/a.cc": "#include <sched.h>\nint f = sched_getcpu();\n"})
        self.assert_found({"envs/a.cc": "#include <sched.h>\nint f = CLONE_NEWNS;\n"}, "envs/a.cc:1", "CLONE_")

    def test_torch_shown_through_a_header(self):
        files = {"policy/inner.h": "#include <ATen/core/Tensor.h>\n",
                 "policy/outer.h": '#include "policy/inner.h"\n',
                 "policy/outer.cc": '#include "policy/outer.h"\n'}
        self.assert_clean(files)
        self.assert_found({**files, "rollout/a.cc": '\n#include "policy/outer.h"\n'}, "rollout/a.cc:2",
                          "policy/inner.h")
        self.assert_clean({"policy/weights.h": "#include <ATen/core/Tensor.h>\n",
                           "app/a.cc": '#include "policy/weights.h"\n'})

    def test_units_that_see_torch_are_counted(self):
        files = {"policy/inner.h": "#include <ATen/core/Tensor.h>\n"}
        for i in range(25):
            files[f"policy/u{i}.cc"] = '#include "policy/inner.h"\n'
        code, lines = self.check(files)
        self.assertEqual((code, lines), (0, ["26 files, 25 translation units see LibTorch (allowed: 25)"]))
        files["learner/losses/mine.cc"] = "#include <ATen/core/Tensor.h>\n"
        self.assertEqual(self.check(files)[0], 0)
        files["learner/one_more.cc"] = "#include <torch/torch.h>\n"
        code, lines = self.check(files)
        self.assertEqual(code, 1)
        self.assertIn("src/learner/one_more.cc:1: sees LibTorch; 26 units do, allowed: 25", lines)

    def test_long_files(self):
        self.assert_clean({"common/a.cc": "\n" * 500})
        self.assert_found({"common/a.cc": "\n" * 501}, "common/a.cc:501", "501 lines")

    def test_no_sources(self):
        with tempfile.TemporaryDirectory() as root:
            done = subprocess.run([sys.executable, SCRIPT, root], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("not a directory", done.stderr)


if __name__ == "__main__":
    unittest.main()
