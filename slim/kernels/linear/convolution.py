"""A causal convolution over a few tokens, channel by channel."""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.shapes import check_float, check_shape


def short_convolution(
  x: jax.Array,
  weights: jax.Array,
  state: jax.Array,
  *,
  positions: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Sums the last W tokens of each channel with learned weights.

  y_t = Σ_i weights_i x_{t-W+1+i},   i = 0 … W - 1,

  without tokens of earlier documents, if positions are given.

  Args:
    x: [B, T, D], float.
    weights: [W, D], float; the last row is that of the token itself.
    state: [B, W - 1, D], the tokens before these; zeros at the start.
    positions: [B, T], integer, of the tokens in their documents; None: the
      sequence is one document.

  Returns:
    y: [B, T, D], dtype of `x`. Sums are computed in float32 or wider.
    state: [B, W - 1, D], the last W - 1 tokens, dtype of `state`.

  Raises:
    ValueError: If shapes disagree, or if an argument has the wrong dtype.
  """
  x, weights, state = map(jnp.asarray, (x, weights, state))
  for name, array in (("x", x), ("weights", weights), ("state", state)):
    check_float(name, array)
  check_shape("x", x, "BTD", {})
  sizes = {"B": x.shape[0], "D": x.shape[2]}
  check_shape("weights", weights, "WD", sizes)
  width, length = weights.shape[0], x.shape[1]
  if state.shape != (sizes["B"], width - 1, sizes["D"]):
    raise ValueError(
      f"state must have shape {(sizes['B'], width - 1, sizes['D'])}, for "
      f"convolutions over {width} tokens, got {state.shape}"
    )
  if positions is not None and positions.shape != x.shape[:2]:
    raise ValueError(
      f"positions must have shape {x.shape[:2]}, got {positions.shape}"
    )
  x, weights, state = match_varying_axes((x, weights, state))
  dtype = at_least_float32(x.dtype, weights.dtype, state.dtype)
  seen = jnp.concatenate([state.astype(dtype), x.astype(dtype)], 1)
  weights = weights.astype(dtype)[:, None, None]
  y = jnp.zeros_like(x, dtype)
  for i in range(width):
    part = seen[:, i : i + length]
    if positions is not None:
      is_own = positions >= width - 1 - i
      part = jnp.where(is_own[..., None], part, 0)
    y += part * weights[i]
  return y.astype(x.dtype), seen[:, length:].astype(state.dtype)
