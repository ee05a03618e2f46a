"""Times programs in one process, so that all of them see the same machine."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def median_seconds(
  programs: list[Callable[[], Any] | None], rounds: int
) -> list[float | None]:
  """Times programs in turns.

  Each is called twice in its turn, and the second call counts: memory that the
  one before it has just given back is cleared in the time of the first.

  Args:
    programs: Called without arguments; None is left out.
    rounds: Timings of each.

  Returns:
    For each the median of its seconds, or None.
  """
  seconds = [[] for _ in programs]
  for _ in range(rounds):
    for program, found in zip(programs, seconds, strict=True):
      if program is None:
        continue
      jax.block_until_ready(program())
      start = time.perf_counter()
      jax.block_until_ready(program())
      found.append(time.perf_counter() - start)
  return [float(np.median(found)) if found else None for found in seconds]
