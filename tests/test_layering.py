"""Imports go down the floors of slim, and the kernels need nothing but JAX."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A room is a file or folder directly in slim/. It imports rooms of lower floors
# only, so that imports form no circle.
FLOORS = [
  {"types", "files", "settings", "kernels"},
  {"models", "data", "targets", "scale"},
  {"training"},
  {"config"},
  {"runs", "command_line"},
  {"plan", "certify", "memory", "generate"},
  {"train", "evaluate", "export"},
]
COMMANDS = {"train", "evaluate", "export"}
TOOLS = {"plan", "certify", "memory", "generate"}
MAX_ROOMS, MAX_ARROWS, MAX_LINES = 19, 74, 250

# Packages that each room may import, besides the standard library.
JAX = {"jax", "numpy"}
PACKAGES = {
  "types": {"jax"},
  "files": set(),
  "settings": set(),
  "kernels": JAX,
  "models": JAX | {"flax"},
  "data": {"numpy"},
  "targets": {"absl", "jax"},
  "scale": JAX,
  "training": JAX | {"chex", "ml_collections", "optax"},
  "config": {"absl", "jax", "ml_collections"},
  "runs": JAX
  | {
    "absl",
    "ml_collections",
    "orbax",
    "safetensors",
    "tensorboardX",
    "tensorstore",
    "xxhash",
  },
  "command_line": {"absl", "jax"},
  "plan": JAX | {"absl", "ml_collections"},
  "certify": JAX | {"absl", "ml_collections"},
  "memory": JAX | {"absl", "matplotlib", "ml_collections"},
  "generate": JAX | {"absl", "ml_collections"},
  "train": JAX | {"absl", "ml_collections"},
  "evaluate": {"absl", "jax"},
  "export": {"absl", "jax"},
}
# Modules that are imported inside functions only, and by whom. Loading them
# takes seconds, or they need an optional package.
LAZY = {
  "slim.data.builders": {"slim/data/registry.py"},
  "matplotlib": {"slim/memory/rendering.py"},
  "tensorboardX": {"slim/runs/metrics.py"},
  "tokenizers": {"slim/data/tokenizer.py"},
}
# The only files that need these packages.
EXTRA_PACKAGES = {
  "slim/data/builders.py": {"tensorflow_datasets"},
  "slim/data/tokenizer.py": {"tokenizers"},
}


def list_files(*folders):
  """Lists the files of folders as paths from the root."""
  return [
    file.relative_to(ROOT).as_posix()
    for folder in folders
    for file in sorted((ROOT / folder).rglob("*.py"))
  ]


FILES = list_files("slim")
OTHER_FILES = list_files("tests", "experiments", "scripts", "configs")


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
        # `from slim import types` and `from slim.types import Batch` both
        # import slim.types.
        name = f"{node.module}.{alias.name}"
        imports.append((name if is_module(name) else node.module, lazy))
  return imports


def is_module(name):
  """Tells whether a name is that of a file or folder of slim."""
  path = ROOT / name.replace(".", "/")
  return path.is_dir() or path.with_suffix(".py").is_file()


def room_of(file):
  """Returns the room that a file is in, or None for slim itself."""
  part = pathlib.PurePosixPath(file).parts[1].removesuffix(".py")
  return None if part == "__init__" else part


def floor_of(room):
  """Returns the floor of a room."""
  found = [i for i, rooms in enumerate(FLOORS) if room in rooms]
  assert found, f"slim/{room} is on no floor: add it to FLOORS"
  return found[0]


def list_arrows():
  """Lists the pairs of rooms of which the first imports the second."""
  arrows = set()
  for file in FILES:
    for module, _ in read_imports(file):
      parts = module.split(".")
      if parts[0] == "slim" and len(parts) > 1 and parts[1] != room_of(file):
        arrows.add((room_of(file), parts[1]))
  return arrows


def test_imports_go_down():
  """Fails if a room imports one on its own floor or above."""
  upward = [(a, b) for a, b in list_arrows() if floor_of(a) <= floor_of(b)]
  assert not upward


def test_the_house_is_small():
  """Fails if a stranger can no longer keep rooms and arrows in mind."""
  rooms = {room_of(file) for file in FILES} - {None}
  assert rooms <= set().union(*FLOORS)
  assert len(rooms) <= MAX_ROOMS
  assert len(FLOORS) <= 7
  assert len(list_arrows()) <= MAX_ARROWS, sorted(list_arrows())


def test_tools_and_commands_are_imported_by_commands_only():
  """Fails if a library function drags in a command and its flags."""
  wrong = [
    (a, b)
    for a, b in list_arrows()
    if b in COMMANDS or (b in TOOLS and a not in COMMANDS)
  ]
  assert not wrong


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_what_its_room_may(file):
  """Fails if, for instance, kernels need Flax or data needs JAX."""
  room = room_of(file)
  packages = PACKAGES.get(room, set()) | EXTRA_PACKAGES.get(file, set())
  folder = file.rpartition("/")[0].replace("/", ".")
  for module, lazy in read_imports(file):
    package, *parts = module.split(".")
    if package == "slim":
      for i, part in enumerate(parts):
        owner = ".".join([package, *parts[:i]])
        assert part[0] != "_" or owner == folder, (
          f"{file} imports {module}, which is private to {owner}"
        )
      if room == "kernels":
        assert parts[0] == "kernels", f"{file} imports {module}"
    elif package not in sys.stdlib_module_names:
      assert package in packages, f"{file} imports {package}"
    for name, importers in LAZY.items():
      if module == name or module.startswith(f"{name}."):
        assert lazy and file in importers, f"{file} imports {module}"


@pytest.mark.parametrize("file", FILES + OTHER_FILES)
def test_a_file_has_one_purpose(file):
  """Fails if a file grows until nobody reads it whole."""
  lines = (ROOT / file).read_text(encoding="utf-8").count("\n")
  assert lines <= MAX_LINES, f"{file} has {lines} lines"


def test_no_module_is_shadowed():
  """Fails if `slim.a.b` is a function though slim/a/b.py exists."""
  for file in FILES:
    if not file.endswith("/__init__.py"):
      continue
    folder = file.removesuffix("/__init__.py")
    modules = {
      pathlib.PurePosixPath(x).stem
      for x in FILES
      if x.rpartition("/")[0] == folder
    }
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
      if isinstance(node, ast.ImportFrom):
        for alias in node.names:
          name = alias.asname or alias.name
          shadows = name in modules and not is_module(
            f"{node.module}.{alias.name}"
          )
          assert not shadows, f"{file}: {name} hides the module {name}.py"


@pytest.mark.parametrize(
  "before, imported, allowed",
  [
    ("sys", "slim", {"slim"}),
    ("jax", "slim.kernels", {"slim", "jax"}),
    ("jax", "slim.data", {"slim", "jax"}),
  ],
)
def test_kernels_and_data_load_nothing_but_jax(before, imported, allowed):
  """Fails if whoever uses a kernel loads Flax, or everybody loads tfds."""
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
