"""The result of a search: candidates and their memory."""

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
      f"must be at least {format_size(memory.total_bytes)}, of which "
      f"activations are {format_size(memory.activation_bytes)} "
      f"({gradient}), got {format_size(self.budget)}"
    )

  def __str__(self) -> str:
    """Formats a table."""
    rows = [
      ("gradient", "C", "time", "≥", "estimate", "activations", "total", "")
    ]
    for x in self.candidates:
      estimate, memory = x.estimated_bytes, x.memory
      at_least = x.time.at_least
      rows.append(
        (
          x.gradient.name,
          str(x.gradient.chunk_size or ""),
          f"{x.time.relative:.2f}",
          "" if at_least is None else f"{1e3 * at_least:,.3g} ms",
          "" if estimate is None else format_size(estimate),
          "" if memory is None else format_size(memory.activation_bytes),
          "" if memory is None else format_size(memory.total_bytes),
          "fits" if self._fits(x) else "",
        )
      )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = "\n".join(
      "  ".join(
        [row[0].ljust(widths[0])]
        + [x.rjust(n) for x, n in zip(row[1:], widths[1:], strict=True)]
      ).rstrip()
      for row in rows
    )
    resident = "".join(
      f" + {name} {format_size(n)}"
      for name, n in self.resident_bytes.items()
      if n
    )
    return f"{table}\ntotal = activations{resident}"

  def _fits(self, candidate: Candidate) -> bool:
    memory = candidate.memory
    return memory is not None and memory.total_bytes <= self.budget
