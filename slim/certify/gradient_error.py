"""The relative error of a gradient, defined once for tests and tools."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def relative_errors(a: Any, b: Any) -> dict[str, float]:
  """Computes the relative error of gradients `a`, parameter by parameter.

  error = |a - b| / max(|b|, 1e-3 |all of b|)

  The norms are Euclidean and formed in float64. A complex number counts as a
  pair of real numbers. The second term matters for a parameter whose exact
  gradient is zero, such as the bias of the keys of softmax attention.

  Args:
    a: Pytree of arrays, the gradients to measure.
    b: Pytree of arrays with the same structure and shapes, the reference.

  Returns:
    The error of each parameter by its path, such as "layer_0/mlp/in/kernel".
    NaN if `a` or `b` has a NaN. PRNG keys and their float0 gradients are
    skipped.

  Raises:
    ValueError: If structures or shapes differ.
  """
  measured, reference = _to_doubles(a), _to_doubles(b)
  if measured.keys() != reference.keys():
    raise ValueError(
      f"a and b must have the same arrays; in one only: "
      f"{sorted(measured.keys() ^ reference.keys())}"
    )
  whole = np.linalg.norm([np.linalg.norm(x) for x in reference.values()])
  errors = {}
  for path, exact in reference.items():
    if measured[path].shape != exact.shape:
      raise ValueError(
        f"{path} of a must have shape {exact.shape}, got {measured[path].shape}"
      )
    distance = np.linalg.norm(measured[path] - exact)
    scale = max(np.linalg.norm(exact), 1e-3 * whole)
    # If all of b is zero, only zero has no error.
    if_zero = 0.0 if distance == 0 else np.inf
    errors[path] = float(distance / scale) if scale else if_zero
  return errors


def largest_error(a: Any, b: Any) -> float:
  """Returns the largest of the `relative_errors`; NaN if any is NaN."""
  return float(np.max([0.0, *relative_errors(a, b).values()]))


def to_double(x: Any) -> np.ndarray:
  """Converts an array to float64, or to complex128 if it is complex."""
  return np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64)


def _to_doubles(tree: Any) -> dict[str, np.ndarray]:
  """Maps the path of each numeric leaf to its values in double precision."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): to_double(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if not _is_opaque(getattr(leaf, "dtype", None))
  }


def _is_opaque(dtype):
  """Tells whether a dtype has no numbers: float0, or that of PRNG keys."""
  return dtype == jax.dtypes.float0 or (
    dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended)
  )
