"""README and docs: what they show runs, and what they name exists."""

import contextlib
import functools
import importlib
import json
import pathlib
import re
import shlex
import sys

import jax
import ml_collections
import pytest
from absl import flags

import slim.certify.__main__ as certify
import slim.memory.__main__ as memory
import slim.plan.__main__ as plan
from slim import command_line, evaluate, export, kernels, train
from slim import config as config_lib
from slim.models.mixers import MIXERS
from tests.commands import run_command

ROOT = pathlib.Path(__file__).parents[1]
FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
  "slim.certify": certify.main,
  "slim.evaluate": evaluate.main,
  "slim.export": export.main,
  "slim.memory": memory.main,
  "slim.plan": plan.main,
  "slim.train": train.main,
}
# Written to by commands; .gitignore lists it.
WRITABLE = "runs/"


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
    for line in text.replace("\\\n", " ").splitlines():
      found.append((path, shlex.split(line, comments=True)))
  for path in FILES:
    found += [
      (path, shlex.split(span))
      for span in code_spans(path)
      if span.startswith("python ") and " --" in span and "…" not in span
    ]
  return found


@pytest.fixture
def restore_registries():
  """Removes what an example adds to a registry."""
  before = dict(MIXERS)
  yield
  MIXERS.clear()
  MIXERS.update(before)


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
  """Returns the command of a file in `scripts/` or `experiments/`."""
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
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert arguments[0] in targets
    return
  if program == "pip":
    assert arguments[:2] == ["install", "--no-deps"]
    assert arguments[2:] in (["path/to/slim"], ["git+$URL"])
    return
  if program != "python":
    assert words in ([".", ".venv/bin/activate"], ["mkdir", "-p", "runs"])
    return
  monkeypatch.chdir(ROOT)
  if arguments[0] == "-m":
    main, arguments = COMMANDS[arguments[1]], arguments[2:]
  else:
    main, arguments = load_main(arguments[0], monkeypatch), arguments[1:]
  parsed = []

  def check(main):
    """Stands where the command would begin to work."""
    config = "config" in flags.FLAGS and flags.FLAGS["config"].value
    if isinstance(config, ml_collections.ConfigDict):
      config_lib.validate(config)
    parsed.append(main)

  monkeypatch.setattr(command_line, "run_main", check)
  text = str(ROOT / "LICENSE")  # Where the user has to name some text.
  arguments = [x.replace("=FILE", f"={text}") for x in arguments]
  done = run_command(main, *arguments)
  assert done.code == 0 and parsed, done.errors
  for argument in arguments:
    if argument.startswith(("--workdir=", "--output=")):
      assert argument.partition("=")[2].startswith(WRITABLE)


def test_commands_leave_nothing_in_a_clone():
  """Fails if what the documented commands write would be untracked files."""
  assert f"/{WRITABLE}" in (ROOT / ".gitignore").read_text().splitlines()


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
  settings = config_lib.types()
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


def test_the_table_of_memory_is_that_of_its_results():
  """Fails if the front page or the benchmarks show other numbers than JSON."""
  path = ROOT / "experiments" / "results" / "memory_vs_length.json"
  rows = json.loads(path.read_text())["rows"]
  found = {
    (row["tokens"], row["method"], row["chunk_size"]): row["activation_MiB"]
    for row in rows
  }
  benchmarks = (ROOT / "docs" / "benchmarks.md").read_text()
  for tokens in sorted({row["tokens"] for row in rows}):
    cells = [
      found[tokens, "full", tokens],
      *(
        found[tokens, method, 64]
        for method in (
          "lax.scan(jax.checkpoint)",
          "slim, store",
          "slim, sqrt",
          "slim, rewind",
        )
      ),
      found[tokens, "slim, rewind", 512],
    ]
    rounded = [f"{float(f'{x:.3g}'):,.0f}" for x in cells]
    assert f"| {tokens:,} | {' | '.join(rounded)} |" in benchmarks
    assert f"{rounded[4]} MiB of activations" in (
      ROOT / "README.md"
    ).read_text().replace("\n", " ")
