"""How far one gradient is from another: the one definition of the project."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def relative_errors(a: Any, b: Any) -> dict[str, float]:
  """Measures how far gradients `a` are from `b`, parameter by parameter.

  error = |a - b| / max(|b|, 1e-3 |all of b|), Euclidean norms, formed in
  float64. A complex number counts as a pair of real ones. The second term is
  for parameters whose gradient is zero but for rounding, such as the bias of a
  softmax attention's keys.

  Args:
    a: Pytree of arrays, what is measured.
    b: Pytree of arrays of the same structure and shapes, what is right.

  Returns:
    A dict from the path of a parameter, as "layer_0/mlp/in/kernel", to its
    error; nan where `a` or `b` is no number. PRNG keys and the float0 arrays
    that stand for their gradients are left out.

  Raises:
    ValueError: If structures or shapes differ.
  """
  a, b = _by_path(a), _by_path(b)
  if a.keys() != b.keys():
    raise ValueError(
      f"a and b must have the same arrays; in one only: "
      f"{sorted(a.keys() ^ b.keys())}"
    )
  whole = np.linalg.norm([np.linalg.norm(x) for x in b.values()])
  errors = {}
  for path, right in b.items():
    if a[path].shape != right.shape:
      raise ValueError(
        f"{path} of a must have shape {right.shape}, got {a[path].shape}"
      )
    distance = np.linalg.norm(a[path] - right)
    scale = max(np.linalg.norm(right), 1e-3 * whole)
    # Where all of b is zero, nothing but zero is right.
    near = 0.0 if distance == 0 else np.inf
    errors[path] = float(distance / scale) if scale else near
  return errors


def largest_error(a: Any, b: Any) -> float:
  """Returns the largest of the `relative_errors`; nan if one is no number."""
  return float(np.max([0.0, *relative_errors(a, b).values()]))


def to_double(x: Any) -> np.ndarray:
  """Converts an array to float64, or to complex128 if it is complex."""
  return np.asarray(x, np.complex128 if jnp.iscomplexobj(x) else np.float64)


def _by_path(tree):
  """Maps the path of each leaf that has numbers to their doubles."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): to_double(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if not _is_opaque(getattr(leaf, "dtype", None))
  }


def _is_opaque(dtype):
  return dtype == jax.dtypes.float0 or (
    dtype is not None and jnp.issubdtype(dtype, jax.dtypes.extended)
  )
