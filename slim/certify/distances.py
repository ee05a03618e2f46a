"""Norms of pytrees and distances between them, formed in float64."""

import math
from typing import Any

import jax
import numpy as np

from slim.certify.gradient_error import to_double
from slim.kernels.support.cotangents import inexact_leaves, is_inexact


def norm(tree: Any) -> float:
  """Returns the Euclidean norm of all floating-point and complex leaves."""
  return math.hypot(
    *(np.linalg.norm(to_double(x)) for x in inexact_leaves(tree))
  )


def distance(a: Any, b: Any) -> float:
  """Returns |a - b|; infinite if two leaves of another dtype differ."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if not is_inexact(x) and not bool((x == y).all()):
      return math.inf
  pairs = zip(inexact_leaves(a), inexact_leaves(b), strict=True)
  return norm([to_double(x) - to_double(y) for x, y in pairs])


def relative_distance(a: Any, b: Any, scale: float) -> float:
  """Returns |a - b| / scale; if scale is 0, 0 for equal trees, else inf."""
  absolute = distance(a, b)
  if absolute == 0:
    return 0.0
  return absolute / scale if scale else math.inf
