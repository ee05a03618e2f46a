"""Imports go down the layers of slim, and the kernels need nothing but JAX."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# A package is a file or folder directly in slim/. It imports packages of lower
# layers only, so that imports form no circle.
LAYERS = [
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
MAX_PACKAGES, MAX_DEPENDENCIES, MAX_LINES = 19, 74, 250

# Libraries that each package may import, besides the standard library.
JAX = {"jax", "numpy"}
LIBRARIES = {
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
# The only files that need these libraries.
EXTRA_LIBRARIES = {
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


def package_of(file):
  """Returns the package that a file is in, or None for slim itself."""
  part = pathlib.PurePosixPath(file).parts[1].removesuffix(".py")
  return None if part == "__init__" else part


def layer_of(package):
  """Returns the layer of a package."""
  found = [i for i, packages in enumerate(LAYERS) if package in packages]
  assert found, f"slim/{package} is on no layer: add it to LAYERS"
  return found[0]


def list_dependencies():
  """Lists the pairs of packages of which the first imports the second."""
  dependencies = set()
  for file in FILES:
    for module, _ in read_imports(file):
      parts = module.split(".")
      if parts[0] == "slim" and len(parts) > 1 and parts[1] != package_of(file):
        dependencies.add((package_of(file), parts[1]))
  return dependencies


def test_imports_go_down():
  """Fails if a package imports one on its own layer or above."""
  upward = [
    (a, b) for a, b in list_dependencies() if layer_of(a) <= layer_of(b)
  ]
  assert not upward


def test_there_are_few_packages():
  """Fails if a stranger can no longer keep all dependencies in mind."""
  packages = {package_of(file) for file in FILES} - {None}
  assert packages <= set().union(*LAYERS)
  assert len(packages) <= MAX_PACKAGES
  assert len(LAYERS) <= 7
  dependencies = sorted(list_dependencies())
  assert len(dependencies) <= MAX_DEPENDENCIES, dependencies


def test_tools_and_commands_are_imported_by_commands_only():
  """Fails if a library function drags in a command and its flags."""
  wrong = [
    (a, b)
    for a, b in list_dependencies()
    if b in COMMANDS or (b in TOOLS and a not in COMMANDS)
  ]
  assert not wrong


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_what_its_package_may(file):
  """Fails if, for instance, kernels need Flax or data needs JAX."""
  package = package_of(file)
  libraries = LIBRARIES.get(package, set()) | EXTRA_LIBRARIES.get(file, set())
  folder = file.rpartition("/")[0].replace("/", ".")
  for module, lazy in read_imports(file):
    library, *parts = module.split(".")
    if library == "slim":
      for i, part in enumerate(parts):
        owner = ".".join([library, *parts[:i]])
        assert part[0] != "_" or owner == folder, (
          f"{file} imports {module}, which is private to {owner}"
        )
      if package == "kernels":
        assert parts[0] == "kernels", f"{file} imports {module}"
    elif library not in sys.stdlib_module_names:
      assert library in libraries, f"{file} imports {library}"
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
