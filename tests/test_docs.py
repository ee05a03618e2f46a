"""README and docs: what they show runs, and what they name exists."""

import contextlib
import functools
import importlib
import pathlib
import re
import shlex
import sys

import jax
import ml_collections
import pytest
from absl import flags

from slim import command_line, kernels
from slim import config as config_lib
from slim.data.registry import DATASETS
from slim.models.mixers import MIXERS
from slim.training.optimizers import SCHEDULES
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
  """Lists (file, number of the block, text) of the fenced blocks."""
  return [
    (path, number, text)
    for path in FILES
    for number, text in enumerate(
      re.findall(
        rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.M
      )
    )
  ]


def name_block(value):
  """Names a file in the identifier of a test."""
  return value.stem if isinstance(value, pathlib.Path) else None


def prose(path):
  """Returns the text of a file without its fenced blocks."""
  return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.M)


def code_spans(path):
  """Lists the code spans outside of blocks, a line break as a space."""
  return [" ".join(x.split()) for x in re.findall(r"`([^`]+)`", prose(path))]


def list_commands():
  """Lists (file, command): those of shell blocks, and of spans with flags."""
  found = []
  for path, _, text in blocks("sh"):
    lines = text.replace("\\\n", " ").replace(" &\n", "\n").splitlines()
    found += [(path, shlex.split(line, comments=True)) for line in lines]
  for path in FILES:
    found += [
      (path, shlex.split(span))
      for span in code_spans(path)
      if re.match("python [^…]* --(?!help)[^…]*$", span)
    ]
  return found


@pytest.fixture
def restore_registries():
  """Removes what an example adds to a registry."""
  registries = DATASETS, MIXERS, SCHEDULES
  before = [dict(registry) for registry in registries]
  yield
  for registry, entries in zip(registries, before, strict=True):
    registry.clear()
    registry.update(entries)


@pytest.fixture
def forget_flags():
  """Forgets the flags and modules of the scripts that a test has imported."""
  names, modules = set(flags.FLAGS), set(sys.modules)
  yield
  for name in set(flags.FLAGS) - names:
    delattr(flags.FLAGS, name)
  for name in set(sys.modules) - modules:
    file = getattr(sys.modules[name], "__file__", None) or ""
    if pathlib.Path(file).parent in (ROOT / "experiments", ROOT / "scripts"):
      del sys.modules[name]


def load_main(script, monkeypatch):
  """Returns the command of a module of slim, or of a file beside it."""
  if "/" not in script:
    is_package = (ROOT / script.replace(".", "/")).is_dir()
    module = f"{script}.__main__" if is_package else script
    return importlib.import_module(module).main
  monkeypatch.syspath_prepend((ROOT / script).parent)
  main = importlib.import_module((ROOT / script).stem).main
  if script.startswith("experiments/"):
    main = functools.partial(command_line.run, main)
  return main


@pytest.mark.usefixtures("restore_registries")
@pytest.mark.parametrize(
  ("path", "number", "text"), blocks("python"), ids=name_block
)
def test_an_example_runs(path, number, text, tmp_path, monkeypatch, capsys):
  """Fails if an example, pasted into an empty file, does not run."""
  monkeypatch.chdir(tmp_path)
  with jax.numpy_rank_promotion("allow"):  # As users have it.
    exec(compile(text, f"{path.name}, block {number}", "exec"), {})
  assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("forget_flags")
@pytest.mark.parametrize(
  ("path", "words"),
  [
    pytest.param(*x, id=f"{x[0].stem}-{' '.join(x[1])}")
    for x in list_commands()
  ],
)
def test_a_command_is_understood(path, words, monkeypatch):
  """Fails if a documented command has a flag or a file that does not exist."""
  program, *arguments = words
  if program == "make":
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{arguments[0]}:", makefile, re.M)
    return
  if program != "python":
    assert re.fullmatch(
      r"pip install --no-deps (path/to/slim|git\+\$URL)|mkdir -p runs|"
      r"\. \.venv(-targets)?/bin/activate|export JAX_PLATFORMS=cpu.*",
      " ".join(words),
    )
    return
  monkeypatch.chdir(ROOT)
  if arguments[0] == "-m":
    arguments = arguments[1:]
  main, *arguments = load_main(arguments[0], monkeypatch), *arguments[1:]
  parsed = []

  def check(main):
    """Stands where the command would begin to work."""
    config = "config" in flags.FLAGS and flags.FLAGS["config"].value
    if isinstance(config, ml_collections.ConfigDict):
      config_lib.validate(config)
    parsed.append(main)

  monkeypatch.setattr(command_line, "run_main", check)
  # Where the user has to name some text, or a folder with texts.
  for name, path in (("FILE", ROOT / "LICENSE"), ("FOLDER", ROOT)):
    arguments = [x.replace(f"={name}", f"={path}") for x in arguments]
  done = run_command(main, *arguments)
  assert parsed, done.errors
  for argument in arguments:
    if argument.startswith(("--workdir=", "--output=")):
      assert argument.partition("=")[2].startswith("runs/")


def test_commands_leave_nothing_in_a_clone():
  """Fails if what the documented commands write would be untracked files."""
  assert "/runs/" in (ROOT / ".gitignore").read_text().splitlines()


def test_no_command_escapes_its_test():
  """Fails if a command stands where the test above does not see it."""
  for path in FILES:
    hidden = re.findall(
      r"^(?: {4}(?:python|make|pip) .*|```(?!python$|sh$)\S+)$",
      prose(path),
      re.M,
    )
    assert not hidden, path


def anchors(path):
  """Returns the anchors that the forge gives to the headings of a file."""
  headings = re.findall(r"^#+ (.*)$", path.read_text(), re.M)
  return {
    re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
    for heading in headings
  }


@pytest.mark.parametrize("path", FILES, ids=name_block)
def test_links_lead_somewhere(path):
  """Fails if a relative link or its anchor does not exist."""
  for link in re.findall(r"\]\(([^)]+)\)", prose(path)):
    if link.startswith("https://"):
      continue
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    assert target.exists(), link
    if anchor:
      assert anchor in anchors(target), link


@pytest.mark.parametrize("path", FILES, ids=name_block)
def test_what_is_named_exists(path):
  """Fails if the text names a file, a setting or a function that is gone."""
  settings = config_lib.flatten(config_lib.base())
  groups = {name.partition(".")[0] for name in settings if "." in name}
  for span in code_spans(path):
    file = re.fullmatch(r"[\w./…-]*\w\.(py|md|json|svg)", span)
    # Files that runs write, or the reader.
    if file and not re.search(r"runs/|config\.json|my_", span):
      pattern = span.replace("…", "*")
      if "/" not in span:
        pattern = f"**/{pattern}"
      assert any(ROOT.glob(pattern)), span
    elif re.fullmatch(r"(slim|tests|configs|experiments|docs)/[\w/]*", span):
      assert (ROOT / span).exists(), span
    elif re.fullmatch(r"slim(\.\w+)+", span):
      resolve(span)
    named = re.findall(r"--config\.([\w.]+)", span)
    group, _, name = span.partition(".")
    if group in groups and re.fullmatch(r"[a-z]\w*", name) and name != "py":
      named.append(span)
    for setting in named:
      assert setting in settings, span


def resolve(name):
  """Imports what a dotted name says; raises if there is no such thing."""
  module, found = name, None
  while found is None:
    with contextlib.suppress(ModuleNotFoundError):
      found = importlib.import_module(module)
      break
    module = module.rpartition(".")[0]
  for part in name.removeprefix(module).split(".")[1:]:
    found = getattr(found, part)
  return found


def test_each_kernel_is_documented():
  """Fails if a public kernel is missing in docs/kernels.md."""
  text = (ROOT / "docs" / "kernels.md").read_text()
  missing = [name for name in kernels.__all__ if f"`{name}`" not in text]
  assert not missing


def test_the_readme_is_a_front_page():
  """Fails if the README grows over what a visitor reads."""
  assert len((ROOT / "README.md").read_text().splitlines()) <= 150
