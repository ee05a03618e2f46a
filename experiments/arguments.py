"""Flags that several experiments have, checked when they are parsed."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator

from absl import flags

from slim.data.splits import check_uncompressed, load_text
from slim.files import local_path

_ROOT = pathlib.Path(__file__).parents[1]
CONFIGS = sorted(path.stem for path in (_ROOT / "configs").glob("*.py"))
_OWN_TEXT = _ROOT / "requirements.lock"  # The longest text of the repository.

flags.disclaim_key_flags()  # `--help` lists them as those of the script.


class _Names(flags.ArgumentParser):
  """Reads names separated by commas."""

  def __init__(self, known):
    super().__init__()
    self._known = known

  def parse(self, argument):
    """Returns the names; the default is already a list."""
    names = argument if isinstance(argument, list) else argument.split(",")
    if not set(names) <= set(self._known) or len(set(names)) < len(names):
      raise ValueError(
        f"must be some of {', '.join(self._known)}, with commas between"
      )
    return names


class _Path(flags.ArgumentParser):
  """Reads a path."""

  def parse(self, argument):
    """Returns the path."""
    return local_path("it", argument)


class _Text(_Path):
  """Reads the path of a text file."""

  def parse(self, argument):
    """Returns the path."""
    path = super().parse(argument)
    check_uncompressed(path, load_text(path))
    return path


class _Data(_Path):
  """Reads a path for `config.data.path`."""

  def parse(self, argument):
    """Returns the path."""
    path = super().parse(argument)
    if not os.path.exists(path):
      raise ValueError("there is no such file or folder")
    return path


def define_names(
  name: str, default: Iterable[str], known: Iterable[str], about: str
) -> flags.FlagHolder:
  """Defines a flag of one or more names."""
  return flags.DEFINE(_Names(list(known)), name, list(default), about)


def chosen_configurations(
  names: flags.FlagHolder, quick: flags.FlagHolder
) -> list[str]:
  """Returns the value of `--configurations`; II, if a small run names none.

  Args:
    names: As `define_names` returns it.
    quick: As `define_quick` returns it.

  Returns:
    The names.
  """
  return names.value if names.present or not quick.value else ["II"]


def define_text(about: str) -> flags.FlagHolder:
  """Defines `--text`, the path of a text file."""
  return flags.DEFINE(_Text(), "text", None, about)


def text_path(text: flags.FlagHolder, quick: flags.FlagHolder) -> str:
  """Returns the path of `--text`; a small run needs none and reads a file here.

  Args:
    text: As `define_text` returns it.
    quick: As `define_quick` returns it.

  Returns:
    The path.

  Raises:
    ValueError: If there is no `--text`, and the run is not small.
  """
  if text.value is None and not quick.value:
    raise ValueError(f"--text is missing: {flags.FLAGS['text'].help}")
  return text.value or str(_OWN_TEXT)


def define_data(
  name: str = "text", about: str = "Sets config.data.path."
) -> flags.FlagHolder:
  """Defines a flag of the path of a config's data, `--text` by default."""
  return flags.DEFINE(_Data(), name, None, about)


def define_workdir(
  default: str,
  about: str = "Folder of the runs; default of --quick: a temporary one.",
) -> flags.FlagHolder:
  """Defines `--workdir`, the folder of runs or environments."""
  return flags.DEFINE(_Path(), "workdir", default, about)


@contextlib.contextmanager
def open_workdir(
  workdir: flags.FlagHolder, quick: flags.FlagHolder
) -> Iterator[pathlib.Path]:
  """Opens the folder of runs, for small runs a new one that is removed.

  So a small run trains again each time, and never continues a long one.

  Args:
    workdir: As `define_workdir` returns it.
    quick: As `define_quick` returns it.

  Yields:
    The folder of `--workdir`, or a temporary one with `--quick` alone.
  """
  if workdir.present or not quick.value:
    yield pathlib.Path(workdir.value)
    return
  with tempfile.TemporaryDirectory() as folder:
    yield pathlib.Path(folder)


def define_count(
  name: str, default: int | None, about: str
) -> flags.FlagHolder:
  """Defines a flag of a number, at least 1."""
  return flags.DEFINE_integer(name, default, about, lower_bound=1)


def result_name(name: str, *of_parts: flags.FlagHolder) -> str:
  """Names the file of a result, which a run of some parts must not replace.

  Args:
    name: Of the whole result.
    *of_parts: Flags with which a run measures less, or something else.

  Returns:
    The name; "<name>_part" if one of the flags is given.
  """
  return f"{name}_part" if any(x.present for x in of_parts) else name


def define_quick(about: str) -> flags.FlagHolder:
  """Defines `--quick`, which makes an experiment small."""
  return flags.DEFINE_bool("quick", False, about)
