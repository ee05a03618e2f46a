"""Imports go one way, and the kernels need nothing but JAX."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# What each file or folder may import, besides the standard library and the
# version in `slim`. Where a part of slim is allowed, so are its own parts.
LAYERS = {
  "slim/__init__.py": set(),
  "slim/runs/__init__.py": set(),
  "slim/training/__init__.py": set(),
  "slim/types.py": {"jax", "numpy"},
  "slim/kernels/": {"jax", "numpy", "slim.kernels", "slim.types"},
  "slim/models/": {
    "flax",
    "jax",
    "numpy",
    "slim.kernels",
    "slim.models",
    "slim.types",
  },
  "slim/data/": {
    "numpy",
    "slim.data.copying",
    "slim.data.corpora",
    "slim.data.dataset",
    "slim.data.reading",
    "slim.data.text",
    "slim.files",
    "slim.types",
  },
  "slim/data/builders.py": {
    "numpy",
    "slim.data.corpora",
    "slim.data.reading",
    "slim.data.text",
    "tensorflow_datasets",
  },
  # A model reaches these as plain functions.
  "slim/training/losses.py": {"jax", "numpy", "slim.kernels", "slim.types"},
  "slim/training/gradients.py": {
    "jax",
    "numpy",
    "slim.kernels",
    "slim.training.losses",
    "slim.types",
  },
  "slim/runs/metrics.py": {
    "jax",
    "numpy",
    "slim.files",
    "slim.kernels",
    "slim.types",
  },
  "slim/memory/": {"jax", "numpy", "slim.files", "slim.memory"},
  "slim/certify/": {
    "jax",
    "numpy",
    "slim.certify",
    "slim.training.gradients",
    "slim.kernels",
  },
  "slim/plan/": {
    "jax",
    "numpy",
    "slim.training.gradients",
    "slim.kernels",
    "slim.memory",
    "slim.runs.metrics",
    "slim.plan",
    "slim.config.byte_sizes",
  },
  "slim/runs/progress.py": {"jax", "slim.runs.metrics", "slim.types"},
  "slim/runs/profiler.py": {"jax", "slim.runs.progress"},
  "slim/training/optimizers.py": {"jax", "optax"},
  "slim/sharding.py": {"jax", "numpy", "slim.types"},
  "slim/training/steps.py": {
    "jax",
    "numpy",
    "optax",
    "slim.training.gradients",
    "slim.kernels",
    "slim.training.losses",
    "slim.runs.metrics",
    "slim.sharding",
    "slim.types",
  },
  "slim/runs/checkpoints.py": {
    "jax",
    "numpy",
    "orbax",
    "slim.training.steps",
    "slim.types",
    "tensorstore",
  },
  "slim/files.py": set(),
  "slim/config/byte_sizes.py": set(),
  "slim/config/__init__.py": {
    "ml_collections",
    "slim.files",
    "slim.config.byte_sizes",
  },
  "slim/config/config_file.py": {"ml_collections", "slim.config", "slim.files"},
  "slim/config/presets.py": {"ml_collections"},
  "slim/command_line.py": {
    "absl",
    "jax",
    "slim.config",
    "slim.config.config_file",
    "slim.config.setting_flags",
  },
  "slim/config/setting_flags.py": {
    "absl",
    "slim.config",
    "slim.config.config_file",
  },
  "slim/runs/workdir.py": {
    "jax",
    "ml_collections",
    "slim.config",
    "slim.files",
  },
  "slim/runs/weights.py": {
    "jax",
    "ml_collections",
    "numpy",
    "safetensors",
    "slim.config",
    "slim.files",
    "slim.types",
    "slim.runs.workdir",
  },
}
# What turns settings into objects, the programs, and what looks at whole
# programs see everything.
LAYERS |= dict.fromkeys(
  [
    "slim/certify/from_config.py",
    "slim/certify/__main__.py",
    "slim/evaluate.py",
    "slim/training/build.py",
    "slim/export.py",
    "slim/generate.py",
    "slim/memory/__main__.py",
    "slim/plan/from_config.py",
    "slim/plan/candidates.py",
    "slim/plan/__main__.py",
    "slim/training/compiled.py",
    "slim/train.py",
  ],
  {"absl", "jax", "ml_collections", "numpy", "optax", "slim"},
)

# What may be imported inside a function only, where it is used.
LAZY = {
  "slim/data/": {"slim.data.builders"},
  "slim/memory/rendering.py": {"matplotlib"},
  "slim/runs/metrics.py": {"tensorboardX"},
}


def list_files():
  """Lists the files of slim as paths from the root."""
  files = sorted((ROOT / "slim").rglob("*.py"))
  return [file.relative_to(ROOT).as_posix() for file in files]


def look_up(table, file):
  """Finds the entry of a file, or of the nearest folder that it is in."""
  folders = [f"{folder}/" for folder in pathlib.PurePosixPath(file).parents]
  for name in (file, *folders):
    if name in table:
      return table[name]
  return None


def read_imports(file):
  """Lists what a file imports, as (module, is it inside a function)."""
  tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
  functions = [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)]
  inside = {id(node) for function in functions for node in ast.walk(function)}
  imports = []
  for node in ast.walk(tree):
    lazy = id(node) in inside
    if isinstance(node, ast.Import):
      imports += [(alias.name, lazy) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{file}:{node.lineno}: write the whole name"
      for alias in node.names:
        # `from slim import types` imports slim.types; `from slim.types import
        # Batch` imports slim.types, too.
        name = f"{node.module}.{alias.name}"
        imports.append((name if is_module(name) else node.module, lazy))
  return imports


def is_module(name):
  """Tells whether a name is that of a file or folder of slim."""
  path = ROOT / name.replace(".", "/")
  return path.is_dir() or path.with_suffix(".py").is_file()


def is_allowed(module, allowed):
  """Tells whether a module, or one that it is a part of, is allowed."""
  parts = module.split(".")
  names = {".".join(parts[: i + 1]) for i in range(len(parts))}
  free = module == "slim" or parts[0] in sys.stdlib_module_names
  return free or bool(names & allowed)


@pytest.mark.parametrize("file", list_files())
def test_imports_go_one_way(file):
  """Without it models would reach into training, and kernels need Flax."""
  allowed = look_up(LAYERS, file)
  assert allowed is not None, (
    f"{file} is in no layer: add it, with what it may import, to LAYERS in "
    f"{pathlib.Path(__file__).name}"
  )
  lazily = allowed | (look_up(LAZY, file) or set())
  for module, lazy in read_imports(file):
    assert is_allowed(module, lazily if lazy else allowed), (
      f"{file} imports {module}; it may import {sorted(allowed)}"
      f" and, inside functions, {sorted(lazily - allowed)}"
    )


def test_no_file_imports_itself_by_detours():
  """Without it the order in which files are imported would matter."""
  graph = {}
  for file in list_files():
    module = file.removesuffix(".py").removesuffix("/__init__")
    imports = {name for name, lazy in read_imports(file) if not lazy}
    graph[module.replace("/", ".")] = {x for x in imports if is_module(x)}
  tuple(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
  "before, imported, allowed",
  [
    ("sys", "slim", {"slim"}),
    ("jax", "slim.kernels", {"slim", "jax"}),
    ("jax", "slim.data", {"slim", "jax"}),
  ],
)
def test_kernels_and_data_load_nothing_but_jax(before, imported, allowed):
  """Without it whoever uses a kernel would pay for Flax, or all for tfds."""
  program = f"""
import sys, {before}
loaded = set(sys.modules)
import {imported}
new = {{name.split(".")[0] for name in set(sys.modules) - loaded}}
print(*new - set(sys.stdlib_module_names))
"""
  run = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT
  )
  assert "slim" in run.stdout.split(), run.stderr
  assert set(run.stdout.split()) <= allowed
