"""Whether a result is of full size, and of the code as it is now."""

import ast
import pathlib
import subprocess
from collections.abc import Iterable
from importlib.metadata import version

from claims import documents
from claims.tables import commits_of

_FOLDER = pathlib.Path(__file__).parent
# Of experiments/: what writes and draws.
_DRAWING = (
  "arguments",
  "figures",
  "learning_curves_figure",
  "record",
  "reformer_figures",
)
# Flags whose values differ from machine to machine. Without a text, a script
# that needs none may have measured on random bytes.
_PLACES = ("enwik8", "ptb", "run", "newer_python")
_TEXT = "--text="


def is_up_to_date(name: str, script: str, arguments: Iterable[str]) -> bool:
  """Tells whether a result need not be measured again.

  Args:
    name: Its file of results/, without the ending.
    script: The experiment.
    arguments: Those of a run at full size.

  Returns:
    Whether the result was measured with these arguments, apart from paths, and
    with the code and the JAX of now.
  """
  try:
    record = documents.read_result(name)
  except FileNotFoundError:
    return False
  if _settings(record["command"].split()[2:]) != _settings(arguments):
    return False
  if any(record["versions"][x] != version(x) for x in ("jax", "jaxlib")):
    return False
  paths = ["slim", "configs", *list_files(script)]
  return all(
    commit and not run_git("diff", "--quiet", commit, "--", *paths)
    for commit in commits_of(record)
  )


def list_files(script: str) -> list[str]:
  """Lists the files of experiments/ that a script measures with."""
  found = [script]
  for name in found:
    tree = ast.parse((_FOLDER / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
      if not isinstance(node, ast.Import | ast.ImportFrom):
        continue
      modules = [x.name for x in node.names]
      if isinstance(node, ast.ImportFrom):
        modules = [node.module]
      found += [
        x for x in modules if x not in found and (_FOLDER / f"{x}.py").exists()
      ]
  files = [f"experiments/{x}.py" for x in found if x not in _DRAWING]
  return files + ["experiments/peers"] * ("peer_environments" in found)


def run_git(*arguments: str) -> int:
  """Runs git; returns its exit code."""
  return subprocess.run(["git", *arguments], cwd=documents.ROOT).returncode


def _settings(arguments):
  """Returns the flags without those that name places, or their values."""
  return {
    _TEXT if x.startswith(_TEXT) else x
    for x in arguments
    if x.removeprefix("--").partition("=")[0] not in _PLACES
  }
