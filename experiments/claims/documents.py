"""The README and docs/: written from the files of results/, and checked."""

import inspect
import json
import pathlib
from collections.abc import Iterator
from typing import Any

from record import RESULTS, results_path

from claims import (
  statements,
  tables,
  tables_attention,
  tables_hybrids,
  tables_peers,
  tables_runs,
  tables_scale,
  tables_slim,
  tables_targets,
)

ROOT = RESULTS.parents[1]
# The tables that a document can name.
BLOCKS = {
  name: function
  for module in (
    tables_slim,
    tables_attention,
    tables_peers,
    tables_runs,
    tables_targets,
    tables_scale,
    tables_hybrids,
  )
  for name, function in inspect.getmembers(module, inspect.isfunction)
  if function.__module__ == module.__name__ and not name.startswith("_")
} | {"source": tables.source}


def documents() -> list[pathlib.Path]:
  """Lists the files whose numbers are tied to results."""
  return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def read_result(name: str, quick: bool = False) -> dict[str, Any]:
  """Reads a file of results/.

  Args:
    name: Its name, without its ending.
    quick: Whether to read the result of a quick run.

  Returns:
    The record.

  Raises:
    FileNotFoundError: If there is none.
  """
  return json.loads(results_path(name, "json", quick).read_text())


def check(quick: bool = False) -> Iterator[str]:
  """Compares all documents with results.

  Args:
    quick: Whether with those of quick runs, for what holds at any size.

  Yields:
    A line for each statement that does not hold.
  """

  def read(name):
    return read_result(name, quick)

  for path in documents():
    text = path.read_text()
    failures = list(statements.check(text, read, quick))
    if not quick:
      failures += statements.check_blocks(text, BLOCKS, read)
    for line, sentence, reason in failures:
      yield f'{path.relative_to(ROOT)}:{line}: "{sentence}": {reason}'


def write() -> None:
  """Writes the numbers and tables of all documents."""
  for path in documents():
    path.write_text(statements.write(path.read_text(), BLOCKS, read_result))
