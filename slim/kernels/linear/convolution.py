"""A causal convolution over a few tokens, channel by channel."""

import jax
import jax.numpy as jnp

from slim.kernels.support.dtypes import at_least_float32
from slim.kernels.support.explicit_meshes import (
  in_mesh_of_arguments,
  shard_as_tokens,
)
from slim.kernels.support.mesh_axes import match_varying_axes
from slim.kernels.support.shapes import as_array, check_float, check_shape


@in_mesh_of_arguments
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
    TypeError: If it is differentiated in forward mode.

  Memory of the gradient beyond inputs and outputs: x and state once more.
  """
  names = "x", "weights", "state"
  x, weights, state = map(as_array, names, (x, weights, state))
  for name, array in zip(names, (x, weights, state), strict=True):
    check_float(name, array)
  check_shape("x", x, "BTD", {})
  sizes = {"B": x.shape[0], "D": x.shape[2]}
  check_shape("weights", weights, "WD", sizes)
  width = weights.shape[0]
  if state.shape != (sizes["B"], width - 1, sizes["D"]):
    raise ValueError(
      f"state must have shape {(sizes['B'], width - 1, sizes['D'])}, for "
      f"convolutions over {width} tokens, got {state.shape}"
    )
  if positions is not None:
    positions = as_array("positions", positions)
    is_integer = jnp.issubdtype(positions.dtype, jnp.integer)
    if positions.shape != x.shape[:2] or not is_integer:
      raise ValueError(
        f"positions must be integers of shape {x.shape[:2]}, got "
        f"{positions.dtype}{list(positions.shape)}"
      )
  x, weights, state = match_varying_axes((x, weights, state))
  dtype = at_least_float32(x.dtype, weights.dtype, state.dtype)
  before, own = shard_as_tokens(state, x).astype(dtype), x.astype(dtype)
  y, last = _convolve(before, own, weights.astype(dtype), positions)
  return y.astype(x.dtype), last.astype(state.dtype)


@jax.custom_vjp
def _convolve(state, x, weights, positions):
  """Convolves tokens of one dtype; returns y, and the last W - 1 tokens."""
  width, length = weights.shape[0], x.shape[1]
  seen = jnp.concatenate([state, x], 1)
  y = jnp.zeros_like(x)
  for i in range(width):
    part = _own(seen[:, i : i + length], positions, width - 1 - i)
    y += part * weights[i][None, None]
  return y, seen[:, length:]


def _convolve_fwd(*args):
  return _convolve(*args), args


def _convolve_bwd(args, cotangents):
  """Moves cotangents, not tokens: of these XLA would keep W moved copies."""
  state, x, weights, positions = args
  y_ct, last_ct = cotangents
  width, length = weights.shape[0], x.shape[1]
  seen = jnp.concatenate([state, x], 1)
  seen_ct, weights_ct = jnp.zeros_like(seen), []
  for i in range(width):
    part = _own(y_ct, positions, width - 1 - i)
    part = jnp.pad(part, ((0, 0), (i, width - 1 - i), (0, 0)))
    seen_ct += part * weights[i][None, None]
    own = seen
    if positions is not None:  # What is not seen may be NaN.
      edges = (0, 0), (i, width - 1 - i)
      is_own = jnp.pad(positions >= width - 1 - i, edges)
      own = jnp.where(is_own[..., None], seen, 0)
    weights_ct.append(jnp.sum(part * own, (0, 1)))
  seen_ct = seen_ct.at[:, length:].add(last_ct)
  state_ct, x_ct = jnp.split(seen_ct, [width - 1], 1)
  return state_ct, x_ct, jnp.stack(weights_ct), None


_convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _own(x, positions, distance):
  """Zeros where the token `distance` before is of an earlier document."""
  if positions is None:
    return x
  return jnp.where((positions >= distance)[..., None], x, 0)
