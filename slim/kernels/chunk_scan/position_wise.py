"""Position-wise layers and sums over tokens, computed chunk by chunk.

The hidden activations of an MLP and the logits of a large vocabulary are many
times wider than the model. They depend on one token only, so the memory of one
chunk is enough, forward and backward. Both functions are a `slim.kernels.scan`
without a state, so there is nothing to rewind.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from slim.kernels.chunk_scan._rewinding import rewinding_scan
from slim.kernels.chunk_scan.chunks import Chunks
from slim.kernels.support.explicit_meshes import in_mesh_of_arguments
from slim.kernels.support.mesh_axes import match_varying_axes


@in_mesh_of_arguments
def chunked_map(
  fn: Callable[[Any, Any], Any],
  params: Any,
  xs: Any,
  *,
  chunk_size: int,
  axis: int = 1,
) -> Any:
  """Computes `fn(params, xs)` chunk by chunk, in the memory of one chunk.

  Args:
    fn: `fn(params, chunk)`, a position-wise layer such as an MLP: each token of
      the result depends only on the same token of the chunk. It may close over
      arrays.
    params: Pytree of arrays and numbers.
    xs: Pytree of arrays with T ≥ 1 tokens along `axis`. Other axes may have
      length 0.
    chunk_size: C, tokens in a chunk. If C does not divide T, the first chunk is
      shorter.
    axis: The axis of time.

  Returns:
    What `fn` returns for all tokens. It has exact first derivatives in reverse
    mode.

  Raises:
    ValueError: If an argument does not fit, if `fn` does not return as many
      tokens as it is given, or if the result is differentiated twice.

  Memory of the gradient beyond inputs and outputs: the activations of C tokens.
  Work of the gradient: one more forward pass than without chunks.

  References:
    Kitaev et al., 2020 (Reformer), https://arxiv.org/abs/2001.04451, section 3.
  """

  def of_chunk(params, chunk):
    out = fn(params, chunk)
    size = jax.tree.leaves(chunk)[0].shape[axis]
    for path, x in jax.tree_util.tree_leaves_with_path(out):
      if jnp.ndim(x) > axis and jnp.shape(x)[axis] != size:
        raise ValueError(
          f"the result{jax.tree_util.keystr(path)} of fn must have the {size} "
          f"tokens of the chunk along axis {axis}, got shape {jnp.shape(x)}; "
          "for a sum over tokens use chunked_sum"
        )
    return out

  return _map("chunked_map", of_chunk, params, xs, chunk_size, axis)


@in_mesh_of_arguments
def chunked_sum(
  fn: Callable[[Any, Any], Any],
  params: Any,
  xs: Any,
  *,
  chunk_size: int,
  axis: int = 1,
) -> Any:
  """Computes `fn(params, xs)`, sums over tokens, in the memory of one chunk.

  If `fn` computes the logits, this is a cross-entropy that never holds the
  logits of more than C tokens.

  Args:
    fn: `fn(params, chunk)`, a pytree of scalars, each a sum over the tokens of
      the chunk. It may close over arrays.
    params: Pytree of arrays and numbers.
    xs: Pytree of arrays with T ≥ 1 tokens along `axis`.
    chunk_size: C, tokens in a chunk. If C does not divide T, the first chunk is
      shorter.
    axis: The axis of time.

  Returns:
    The sums over all tokens. They have exact first derivatives in reverse mode.

  Raises:
    ValueError: If an argument does not fit, or if the result is differentiated
      twice.

  Memory of the gradient beyond inputs and outputs: the activations of C tokens.
  """

  def of_chunk(params, chunk):
    sums = fn(params, chunk)
    for path, x in jax.tree_util.tree_leaves_with_path(sums):
      if jnp.size(x) != 1:
        raise ValueError(
          f"the result{jax.tree_util.keystr(path)} of fn must be a scalar, got "
          f"shape {jnp.shape(x)}; sum it over the chunk, or use chunked_map"
        )
    shape = (1,) * (axis + 1)
    return jax.tree.map(lambda x: jnp.reshape(x, shape), sums)

  sums = _map("chunked_sum", of_chunk, params, xs, chunk_size, axis)
  return jax.tree.map(lambda x: x.sum(), sums)


def _map(name, fn, params, xs, chunk_size, axis):
  """Applies `fn` chunk by chunk. Errors name `name`, the caller."""
  chunks = Chunks.of(xs, chunk_size, axis)
  params, xs = match_varying_axes((params, xs))
  chunks.check_out(
    jax.eval_shape(fn, params, chunks.first(xs)),
    "the result{} of fn",
    "for a sum over tokens use chunked_sum",
  )
  if chunks.num_later == 0:
    return fn(params, xs)

  def step(params, state, chunk):
    return state, fn(params, chunk)

  def rewind(params, state, chunk):
    return state, fn(params, chunk), state

  _, out = rewinding_scan(
    step,
    rewind,
    params,
    (),
    xs,
    chunks,
    False,
    f"{name} has first derivatives only; for a second derivative call "
    "fn(params, xs) without chunks",
  )
  return out
