"""Tables of docs/ in Markdown: the parts that all of them share."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from claims.expressions import Read, select

# Flags whose value is a path on the machine that measured.
_FILES = re.compile(r"--(text|enwik8)=\S+")
_FOLDERS = re.compile(r"--ptb=\S+")


def markdown(
  header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1
) -> str:
  """Writes a table.

  Args:
    header: Names of the columns.
    rows: Their cells.
    left: How many columns are aligned to the left; the others hold numbers.

  Returns:
    Lines of Markdown.
  """
  rules = ["---"] * left + ["---:"] * (len(header) - left)
  lines = [_row(header), _row(rules), *map(_row, rows)]
  return "\n".join(lines)


def three_digits(value: float | None) -> str:
  """Writes a number with three significant digits, "1,380" for 1379.8."""
  if value is None:
    return ""
  rounded = float(f"{value:.3g}")
  if abs(rounded) >= 100:
    return f"{rounded:,.0f}"
  return f"{rounded:.3g}"


def ratio(value: float | None) -> str:
  """Writes a ratio with two decimals, or with one from 10 on."""
  if value is None:
    return ""
  return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def seconds(value: float | None) -> str:
  """Writes a time, "13.8 s" or "0.5 ms"."""
  if value is None:
    return ""
  if value < 0.1:
    return f"{three_digits(value * 1000)} ms"
  return f"{three_digits(value)} s"


def mebibytes(value: float | None) -> str:
  """Writes a size in MiB, "44" or "4.5"."""
  if value is None:
    return ""
  return f"{value:.0f}" if 10 <= value < 1000 else three_digits(value)


def source(read: Read, *names: str) -> str:
  """Says where numbers come from: command, date, machine, versions, files.

  Args:
    read: Reads the record of a name.
    *names: Files of results/ with the same versions, made on one machine.

  Returns:
    A paragraph of Markdown.

  Raises:
    ValueError: If a result does not say of which code it is.
  """
  records = [read(name) for name in names]
  commands = _unique(
    _FOLDERS.sub("--ptb=FOLDER", _FILES.sub(r"--\1=FILE", record["command"]))
    for record in records
  )
  dates = sorted(_unique(record["date"] for record in records))
  commits = _unique(x for record in records for x in commits_of(record))
  if not all(commits):
    raise ValueError(f"{', '.join(names)}: one has no commit, measure it again")
  packages = _unique(
    f"jax {x['jax']}, Python {x['python']}"
    for x in (record["versions"] for record in records)
  )
  links = [f"[{name}](../experiments/results/{name}.json)" for name in names]
  facts = [
    " to ".join(dict.fromkeys([dates[0], dates[-1]])),
    "; ".join(_unique(record["hardware"] for record in records)),
    "; ".join(packages),
    *(f"commit {x[:10]}{'-dirty' * x.endswith('-dirty')}" for x in commits),
    ", ".join(links),
  ]
  return "\n".join([*(f"`{x}`  " for x in commands), " · ".join(facts)])


def commits_of(record: dict[str, Any]) -> list[str]:
  """Returns the commits that a result was measured at; "" if it has none.

  Rows of runs that were trained earlier have their own, with spaces between.
  """
  rows = (row.get("commit") or "" for row in record["rows"])
  commits = [commit for row in rows for commit in row.split()]
  return _unique(commits) or [record.get("commit", "")]


def pick(record: dict[str, Any], key: str, **settings: Any) -> Any:
  """Returns a value as `select` does, or None if no row has the settings."""
  try:
    return select(record, key, **settings)
  except ValueError:
    return None


def _row(cells):
  return f"| {' | '.join(cells)} |"


def _unique(values):
  return list(dict.fromkeys(values))
