"""What blocks must keep: skipping, dropout, merging and precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import relative_errors
from slim.kernels import chunked_softmax_attention_and_lse, merge_attention
from tests.helpers import assert_gradients_close
from tests.kernels.softmax.cases import (
  DEFINITION,
  KEYS,
  by_jax,
  in_blocks,
  make_inputs,
)


@pytest.mark.parametrize(
  ("settings", "columns_of_rows"),
  [
    ({"is_causal": True}, [1, 2, 3, 4]),
    ({"local_window_size": (3, 0)}, [1, 2, 2, 2]),
    # A block is seen if either sequence sees it.
    ({"is_causal": True, "query_offset": np.array([-4, 4])}, [2, 3, 4, 4]),
    (
      {"local_window_size": (3, 0), "query_offset": np.full(2, -8)},
      [0, 0, 1, 2],
    ),
  ],
)
def test_masked_blocks_are_skipped(settings, columns_of_rows):
  """Fails if causal attention does twice the work it needs."""
  rows = []

  def mask_fn(i, j):
    jax.debug.callback(lambda i: rows.append(int(i) // 4), i[0, 0])
    return (i >= 0) & (j >= 0)

  x = jnp.ones((2, 16, 1, 1))

  @jax.jit
  def gradient(q):
    form = in_blocks(4, 4)
    return jax.grad(
      lambda q: form(q, x, x, mask_fn=mask_fn, **settings)[0].sum()
    )(q)

  jax.block_until_ready(gradient(x))
  jax.effects_barrier()
  counted = [rows.count(i) for i in range(4)]
  assert counted == [2 * n for n in columns_of_rows]  # Forward and backward.


def test_dropout_drops_its_share_of_the_same_pairs():
  """Fails if another block size, or the backward pass, drops other pairs."""
  length = 64
  ones = jnp.ones((2, length, 3, 4))
  v = jnp.eye(length)[None, :, None, :] * jnp.ones((2, 1, 3, 1))

  def kept(form):
    run = functools.partial(form, dropout_rate=0.25, dropout_keys=KEYS)
    y, _ = jax.jit(run)(ones, ones, v)
    return np.asarray(y) * length * 0.75

  whole = kept(DEFINITION)
  np.testing.assert_allclose(whole, np.round(whole), atol=1e-5)
  assert set(np.round(whole).ravel()) == {0, 1}
  share = 1 - whole.mean()
  assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / whole.size)
  # Each sequence, head and query drops different pairs.
  for axis in range(3):
    assert (np.diff(np.round(whole), axis=axis) != 0).any()
  np.testing.assert_allclose(kept(in_blocks(24, 40)), whole, atol=1e-5)


def test_pieces_of_queries_and_keys_make_the_whole(x64):
  """Fails if a cache, or a mesh, must hold all keys in one place."""
  inputs, _, _ = make_inputs((2, 11, 11, 2, 1, 3, 3))
  q, k, v = (inputs[name] for name in "qkv")
  whole = jax.jit(functools.partial(DEFINITION, is_causal=True))(q, k, v)
  form = functools.partial(in_blocks(3, 4), is_causal=True)
  at_offset = jax.jit(lambda *qkv, offset: form(*qkv, query_offset=offset))
  pieces = [
    at_offset(q[:, a:b], k, v, offset=jnp.int32(a))
    for a, b in ((0, 4), (4, 5), (5, 11))
  ]
  joined = [np.concatenate(x, 1) for x in zip(*pieces, strict=True)]
  assert_gradients_close(joined, list(whole), 1e-12)
  # The first queries see no key of the second half.
  halves = [
    jax.jit(functools.partial(form, query_offset=-a))(q, k[:, a:b], v[:, a:b])
    for a, b in ((0, 6), (6, 11))
  ]
  merge = jax.jit(merge_attention)
  assert_gradients_close(merge(halves), whole, 1e-12)
  nothing = (np.zeros_like(whole[0]), np.full_like(whole[1], -np.inf))
  merged = merge([nothing, nothing])
  np.testing.assert_array_equal(merged[0], 0)
  np.testing.assert_array_equal(merged[1], -np.inf)


@pytest.mark.parametrize(
  "kind", [pytest.param("plain", marks=pytest.mark.slow), "causal"]
)
def test_bfloat16_is_as_accurate_as_jax(x64, kind):
  """Fails if sums are computed in bfloat16."""
  inputs, mask, cts = make_inputs((2, 96, 96, 4, 2, 32, 32))
  inputs = {name: inputs[name] for name in "qkv"}

  def round_to_bfloat16(x):
    return np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)

  inputs = jax.tree.map(round_to_bfloat16, inputs)
  cts = (round_to_bfloat16(cts[0]), np.zeros_like(cts[1]))

  def gradients(attend, dtype):
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), inputs)

    @jax.jit
    def run(cast, y_ct):
      y, vjp = jax.vjp(
        lambda x: attend(x["q"], x["k"], x["v"], is_causal=kind == "causal")[0],
        cast,
      )
      return y, vjp(y_ct)

    return run(cast, jnp.asarray(cts[0], dtype))

  right = gradients(DEFINITION, "float64")
  ours = relative_errors(gradients(in_blocks(32, 40), "bfloat16"), right)
  theirs = relative_errors(gradients(by_jax, "bfloat16"), right)
  for name, error in ours.items():
    assert error <= 1.1 * theirs[name], (name, error, theirs[name])


def overhead(form, length, gradient):
  """Temporary bytes of an attention of one head of 64, compiled only."""
  x = jax.ShapeDtypeStruct((1, length, 1, 64), jnp.float32)

  def run(q, k, v):
    return form(q, k, v)[0]

  def loss(q, k, v, y_ct):
    return jnp.vdot(run(q, k, v), y_ct)

  if gradient:
    lowered = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, x)
  else:
    lowered = jax.jit(run).lower(x, x, x)
  return lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gradient", [False, True])
def test_memory_is_a_300th(gradient):
  """Fails if memory exceeds 1/300 of that of all scores.

  The paper reports 1/59, and 1/32 with gradients.
  """
  standard = overhead(by_jax, 16384, gradient)
  assert standard >= 4 * 16384**2
  assert (
    overhead(chunked_softmax_attention_and_lse, 16384, gradient)
    <= standard / 300
  )


def test_million_tokens():
  """Fails if the gradient needs more than y, lse and the gradients."""
  assert overhead(chunked_softmax_attention_and_lse, 2**20, True) <= 1.3e9
