"""What was checked, what was found, and what may be the cause of it."""

import json
import math
import pathlib
from typing import NamedTuple


class Check(NamedTuple):
  """One number, and what it may be at most."""

  what: str  # Such as "gradient of params".
  where: str  # The array that is worst, or "".
  dtype: str  # That all was computed in.
  chunk_size: int | None  # None: no matter.
  value: float
  limit: float
  cause: str  # What is likely to be wrong, where the value is too large.

  @property
  def ok(self) -> bool:
    """Whether the value is in its limit; nan never is."""
    return self.value <= self.limit

  @property
  def badness(self) -> float:
    """The value over its limit; infinite for nan."""
    if math.isnan(self.value):
      return math.inf
    return self.value / self.limit


class Certificate(NamedTuple):
  """All checks of a step."""

  checks: tuple[Check, ...]

  @property
  def failures(self) -> tuple[Check, ...]:
    """The checks that failed."""
    return tuple(check for check in self.checks if not check.ok)

  @property
  def ok(self) -> bool:
    """Whether the chunked gradient is that of the whole sequence."""
    return not self.failures

  def __str__(self) -> str:
    """A table for people: of all chunk sizes the one that is worst."""
    rows = [("check", "worst", "in", "C", "found", "limit", "")]
    worst = {}
    for check in self.checks:
      key = check.what, check.dtype
      if key not in worst or check.badness > worst[key].badness:
        worst[key] = check
    for check in worst.values():
      rows.append(
        (
          check.what,
          check.where,
          check.dtype,
          str(check.chunk_size or ""),
          f"{check.value:.2g}",
          f"{check.limit:.2g}",
          "" if check.ok else "FAILED",
        )
      )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
      "  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True)).rstrip()
      for row in rows
    )

  def describe_failure(self) -> str:
    """One line: the first failure, its number, and its likely cause."""
    first, *others = self.failures
    where = f" of {first.where}" if first.where else ""
    size = f", C = {first.chunk_size}" if first.chunk_size else ""
    more = f" ({len(others)} more checks failed)" if others else ""
    return (
      f"{first.what}{where} in {first.dtype}{size} is {first.value:.2g}, must "
      f"be at most {first.limit:.2g}: {first.cause}{more}"
    )

  def save(self, path: str) -> None:
    """Writes all checks as JSON."""
    checks = [check._asdict() | {"ok": check.ok} for check in self.checks]
    record = {"ok": self.ok, "checks": checks}
    pathlib.Path(path).write_text(json.dumps(record, indent=1) + "\n")
