"""The checks of a step: values, limits and likely causes of failure."""

import json
import math
from typing import NamedTuple

from slim.files import write_file


class Check(NamedTuple):
  """One measured value and its limit.

  Attributes:
    what: What is measured, such as "gradient of params".
    where: Path of the worst array, or "".
    dtype: Dtype of the computation.
    chunk_size: C, tokens; None if the value does not depend on it.
    value: The measured value.
    limit: Largest value that passes.
    cause: Likely cause of a failure.
  """

  what: str
  where: str
  dtype: str
  chunk_size: int | None
  value: float
  limit: float
  cause: str

  @property
  def ok(self) -> bool:
    """Whether the value is within its limit. NaN never is."""
    return self.value <= self.limit

  @property
  def value_over_limit(self) -> float:
    """value / limit; infinite if the value is NaN."""
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
    """Whether the gradient over chunks is that of the whole sequence."""
    return not self.failures

  def __str__(self) -> str:
    """Formats a table with the worst chunk size of each check."""
    rows = [("check", "array", "dtype", "C", "value", "limit", "")]
    worst: dict[tuple[str, str], Check] = {}
    for check in self.checks:
      key = check.what, check.dtype
      if (
        key not in worst or check.value_over_limit > worst[key].value_over_limit
      ):
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
    """Describes the first failure in one line: value, limit, likely cause."""
    first, *others = self.failures
    where = f" of {first.where}" if first.where else ""
    size = f", C = {first.chunk_size}" if first.chunk_size else ""
    more = f" ({len(others)} more checks failed)" if others else ""
    return (
      f"{first.what}{where} in {first.dtype}{size} is {first.value:.2g}, must "
      f"be at most {first.limit:.2g}: {first.cause}{more}"
    )

  def save(self, path: str, name: str = "path") -> None:
    """Writes all checks to a JSON file; values that are not finite are null.

    Args:
      path: The file; its folder exists.
      name: The flag or argument that names it, for errors.

    Raises:
      ValueError: If it cannot be written.
    """
    checks = [
      check._asdict()
      | {"ok": check.ok}
      | ({} if math.isfinite(check.value) else {"value": None})
      for check in self.checks
    ]
    record = {"ok": self.ok, "checks": checks}
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    write_file(path, text.encode(), name)
