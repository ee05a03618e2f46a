"""What the implementations in JAX share, in two environments."""

from collections.abc import Callable, Sequence
from typing import Any

import jax


def compile_passes(
  function: Callable[..., jax.Array],
  fixed: Sequence[jax.Array],
  varied: Sequence[jax.Array],
  y_ct: jax.Array,
) -> dict[str, Callable[[], Sequence[Any]]]:
  """Compiles a function and its gradient.

  Args:
    function: Called with the arrays of `fixed` and of `varied`.
    fixed: Arrays that are not differentiated.
    varied: Arrays that are.
    y_ct: The cotangent of the result.

  Returns:
    "forward" and "gradient", functions that wait for their results.
  """

  def forward(fixed, varied, y_ct):
    del y_ct
    return [function(*fixed, *varied)]

  def gradient(fixed, varied, y_ct):
    return jax.vjp(lambda *x: function(*fixed, *x), *varied)[1](y_ct)

  def compiled(run):
    args = fixed, varied, y_ct
    run = jax.jit(run).lower(*args).compile()
    return lambda: jax.block_until_ready(run(*args))

  return {"forward": compiled(forward), "gradient": compiled(gradient)}


def relu_features(projection: jax.Array, x: jax.Array) -> jax.Array:
  """Computes the features of performer-pytorch with `generalized_attention`.

  Args:
    projection: [M, K].
    x: [B, T, H, K].

  Returns:
    [B, T, H, M].
  """
  return jax.nn.relu(x.shape[-1] ** -0.25 * x @ projection.T) + 1e-3
