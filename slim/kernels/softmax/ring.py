"""Causal softmax attention to a sequence whose tokens are on several devices.

The sequence is cut into 2 P stripes. Device p has stripes p and 2 P - 1 - p:
see `slim.kernels.zigzag_order`. Keys and values travel around the ring of
devices, and each device attends to what passes by. All devices have equal work
in each step, although attention is causal.
"""

import jax

from slim.kernels.softmax._ring_passes import Ring, attend_on_ring
from slim.kernels.softmax.chunked import chunked_softmax_attention
from slim.kernels.support.mesh_axes import match_varying_axes, vary
from slim.kernels.support.shapes import check_positive_int, check_static_number


def ring_attention(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  axis_name: str,
  scale: float | None = None,
  precision: jax.lax.PrecisionLike = None,
  q_block_size: int = 512,
  k_block_size: int = 512,
) -> jax.Array:
  """Computes causal softmax attention to tokens that P devices share.

  Call it in `jax.shard_map`, with tokens in the order of `zigzag_order`. The
  result is that of `softmax_attention` with `is_causal=True`.

  Args:
    q: [B, T, H, K], float. Queries of this device; T is even.
    k: [B, T, G, K], float. Keys of this device. G divides H.
    v: [B, T, G, V], float. Values of this device.
    axis_name: The mesh axis over which the tokens are split.
    scale: Factor of q · k. Default: 1 / √K.
    precision: Precision of the products, as in `jax.lax.dot_general`.
    q_block_size: As for `chunked_softmax_attention`.
    k_block_size: As for `chunked_softmax_attention`.

  Returns:
    [B, T, H, V], dtype of `v`. Sums are computed in float32 or wider; what a
    query finds in each stripe is rounded to the dtype of `v`.

  Raises:
    ValueError: If an argument does not fit, or if it is differentiated twice.
    TypeError: If it is differentiated in forward mode.

  Memory of the gradient beyond inputs and outputs: a fixed number of arrays of
  T tokens, whatever P is. Communication: k and v P - 1 times forward, and as
  often backward, with their gradients P times.

  References:
    Liu et al., 2023 (Ring Attention), https://arxiv.org/abs/2310.01889;
    Brandon et al., 2023 (Striped Attention), https://arxiv.org/abs/2311.09431,
    for balanced causal work.
  """
  if scale is not None:
    scale = check_static_number("scale", scale)
  # Raises if an argument does not fit.
  jax.eval_shape(
    lambda *x: chunked_softmax_attention(*x, scale=scale, precision=precision),
    *(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
  )
  for name, x in (("q", q), ("k", k)):
    if x.shape[1] % 2 or x.shape[1] != q.shape[1]:
      raise ValueError(
        f"{name} must have an even number of tokens, as many as q, got "
        f"{x.shape[1]}: each device has two stripes"
      )
  ring = Ring(
    axis_name,
    scale,
    precision,
    check_positive_int("q_block_size", q_block_size),
    check_positive_int("k_block_size", k_block_size),
  )
  q, k, v = match_varying_axes((q, k, v))
  return attend_on_ring(ring, *(vary(x, {axis_name}) for x in (q, k, v)))
