"""How far one gradient is from another."""

from typing import Any

import numpy as np


def largest_error(a: list[Any], b: list[Any]) -> float:
  """Measures how far gradients `a` are from `b`, the right ones.

  max over parameters of |a - b| / max(|b|, 1e-3 |all of b|), Euclidean norms,
  formed in float64.

  Args:
    a: Arrays, one a parameter.
    b: Arrays, likewise.

  Returns:
    The largest error of a parameter.
  """
  a, b = ([np.asarray(x, np.float64) for x in tree] for tree in (a, b))
  floor = 1e-3 * np.sqrt(sum(np.sum(x**2) for x in b))
  return max(
    float(np.linalg.norm(x - y) / max(np.linalg.norm(y), floor))
    for x, y in zip(a, b, strict=True)
  )
