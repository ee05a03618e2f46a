"""The result of a search: candidates and their memory."""

import math
from typing import NamedTuple

from slim.config.byte_sizes import format_size
from slim.plan.gradient_choice import GradientChoice
from slim.plan.time_estimate import PredictedTime


class CompiledMemory(NamedTuple):
  """Memory of a compiled gradient, in bytes."""

  activation_bytes: int
  total_bytes: int  # With everything that is in memory at the same time.


class Candidate(NamedTuple):
  """A way to compute the gradient, with its predicted and measured cost.

  Attributes:
    gradient: How the gradient is computed.
    time: Predicted time of an update.
    estimated_bytes: Estimated activations; None if not estimated.
    memory: Memory as compiled; None if not compiled.
  """

  gradient: GradientChoice
  time: PredictedTime
  estimated_bytes: int | None = None
  memory: CompiledMemory | None = None


class Plan(NamedTuple):
  """All candidates, the fastest first.

  Attributes:
    candidates: The candidates.
    budget: Bytes.
    resident_bytes: Bytes that every candidate needs, by name.
  """

  candidates: tuple[Candidate, ...]
  budget: int
  resident_bytes: dict[str, int]

  @property
  def choice(self) -> Candidate | None:
    """The fastest candidate that fits, or None."""
    return next(filter(self._fits, self.candidates), None)

  def describe_failure(self) -> str:
    """Describes in one line which budget would suffice, if nothing fits."""
    compiled = [
      (x.memory, x.gradient) for x in self.candidates if x.memory is not None
    ]
    memory, gradient = min(compiled, key=lambda x: x[0].total_bytes)
    return (
      f"must be at least {format_size(memory.total_bytes, math.ceil)}"
      f", of which activations are {format_size(memory.activation_bytes)} "
      f"({gradient}), got {format_size(self.budget, math.floor)}"
    )

  def __str__(self) -> str:
    """Formats a table."""
    rows = [self._row(x) for x in self.candidates]
    # The column of a bound is left out for devices that have none.
    columns = [
      (name, *(row[name] for row in rows))
      for name in rows[0]
      if name != "at least" or any(row[name] for row in rows)
    ]
    widths = [max(map(len, column)) for column in columns]
    table = "\n".join(
      "  ".join(
        [row[0].ljust(widths[0])]
        + [x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True)]
      ).rstrip()
      for row in zip(*columns, strict=True)
    )
    resident = "".join(
      f" + {name} {format_size(n)}"
      for name, n in self.resident_bytes.items()
      if n
    )
    return f"{table}\ntotal = activations{resident}"

  def _row(self, candidate: Candidate) -> dict[str, str]:
    """Formats a candidate; the names of the columns are the keys."""
    gradient, time, estimate, memory = candidate

    def size(num_bytes):
      return "" if num_bytes is None else format_size(num_bytes)

    return {
      "gradient": gradient.name,
      "C": str(gradient.chunk_size or ""),
      "time": f"{time.relative:.2f}",
      "at least": time.at_least and f"{1e3 * time.at_least:,.3g} ms" or "",
      "estimate": size(estimate),
      "activations": size(memory and memory.activation_bytes),
      "total": size(memory and memory.total_bytes),
      "": "fits" if self._fits(candidate) else "",
    }

  def _fits(self, candidate: Candidate) -> bool:
    memory = candidate.memory
    return memory is not None and memory.total_bytes <= self.budget
