"""The settings `config.gradient`: how the gradient is computed."""

import dataclasses

from slim.kernels import POLICIES
from slim.settings import SettingError, setting
from slim.training.gradients import METHODS


@dataclasses.dataclass(frozen=True)
class GradientSettings:
  """How to differentiate; see `slim.training.gradients`."""

  method: str = setting(
    "slim",
    "Gradient: in one pass (full), the same but recomputing activations "
    "(remat), chunk by chunk (slim), or the first half of the steps full and "
    "the second half slim (full_then_slim).",
    choices=(*METHODS, "full_then_slim"),
  )
  chunk_size: int | None = setting(
    128,
    "C, tokens per chunk; more than T means T. For slim only. None: "
    "memory_budget chooses it.",
  )
  policy: str = setting(
    "rewind",
    "Which of the N states between chunks slim keeps: all (store), about 2 √N "
    "for one more forward pass (sqrt), or the last, from which the others are "
    "recomputed backwards (rewind). With 'rewind', layers whose state decays "
    "keep it as with 'store'.",
    choices=POLICIES,
  )
  memory_budget: str | None = setting(
    None,
    "Memory of the device or, on CPUs, of the process, as in 2GiB; the "
    "other CPU devices of a process are not counted. The fastest "
    "method, policy and chunk size that fit are chosen; chunk_size must be "
    "None.",
  )

  def check(self) -> None:
    """Raises SettingError if settings do not fit each other."""
    if self.memory_budget is not None and self.chunk_size is not None:
      raise SettingError(
        "chunk_size",
        "must be None for config.gradient.memory_budget, which chooses it, got "
        f"{self.chunk_size}",
      )
    if (
      self.memory_budget is None
      and self.chunk_size is None
      and "slim" in self.method
    ):
      raise SettingError(
        "chunk_size",
        f"must be a number of tokens for config.gradient.method={self.method!r}"
        ", unless there is a config.gradient.memory_budget, got None",
      )
