"""Derivatives of trees in which not every leaf has one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_float(x: Any) -> bool:
  """Tell whether an array has a derivative.

  Floats and complex numbers have one. Integers, booleans and PRNG keys have
  none.
  """
  return jnp.issubdtype(x.dtype, jnp.inexact)


def floats(tree: Any) -> list[jax.Array]:
  """List the leaves that have a derivative."""
  return [x for x in jax.tree.leaves(tree) if is_float(x)]


def cotangent(tree: Any, floats: list[jax.Array]) -> Any:
  """A cotangent for `tree`: `floats` in place, float0 where there is none."""
  floats = iter(floats)
  return jax.tree.map(
    lambda x: (
      next(floats).astype(x.dtype)
      if is_float(x)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    tree,
  )


def first_order_only(residuals: Any, message: str) -> Any:
  """Returns the residuals as they are, for the backward pass to start from.

  Differentiating that pass is refused here: it would fail somewhere inside.

  Args:
    residuals: Pytree of arrays.
    message: Of the ValueError.

  Returns:
    The residuals.
  """

  @jax.custom_jvp
  def identity(residuals):
    return residuals

  @identity.defjvp
  def refuse(primals, tangents):
    del primals, tangents
    raise ValueError(message)

  return identity(residuals)
