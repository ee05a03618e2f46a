"""Cotangents of pytrees in which some leaves are not differentiable."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_inexact(x: Any) -> bool:
  """Tells whether an array is differentiable: floating-point or complex.

  Integers, booleans and PRNG keys are not.
  """
  return jnp.issubdtype(x.dtype, jnp.inexact)


def inexact_leaves(tree: Any) -> list[jax.Array]:
  """Lists the differentiable leaves, those with an inexact dtype."""
  return [x for x in jax.tree.leaves(tree) if is_inexact(x)]


def cotangent(tree: Any, inexact: list[jax.Array]) -> Any:
  """Makes a cotangent for `tree` from those of its inexact leaves.

  Args:
    tree: Pytree of arrays.
    inexact: The cotangent of each leaf in `inexact_leaves(tree)`, of any dtype.

  Returns:
    Pytree like `tree`. Other leaves have the float0 zeros that JAX expects.
  """
  cotangents = iter(inexact)
  return jax.tree.map(
    lambda x: (
      next(cotangents).astype(x.dtype)
      if is_inexact(x)
      else np.zeros(x.shape, jax.dtypes.float0)
    ),
    tree,
  )


def first_order_only(residuals: Any, message: str) -> Any:
  """Makes a backward pass refuse to be differentiated.

  Without this the second derivative would fail somewhere inside the pass, or be
  wrong.

  Args:
    residuals: Pytree of arrays, all inputs of the backward pass.
    message: Message of the ValueError.

  Returns:
    The residuals, unchanged. Their derivative raises the error.
  """

  @jax.custom_jvp
  def identity(residuals):
    return residuals

  @identity.defjvp
  def refuse(primals, tangents):
    del primals, tangents
    raise ValueError(message)

  return identity(residuals)
