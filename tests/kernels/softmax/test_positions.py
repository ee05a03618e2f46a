"""Windows, offsets and dropout count positions without overflow."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  append_softmax_attention,
  chunked_softmax_attention_and_lse,
  init_cache,
  softmax_attention,
  softmax_attention_and_lse,
)
from slim.kernels.softmax._scores import make_dropout_scale
from slim.kernels.softmax._window import Window, make_window
from tests.helpers import assert_gradients_close
from tests.kernels.softmax.arguments import FORMS

INT32 = np.iinfo(np.int32)


def test_windows_and_offsets_of_any_size():
  """Fails if sums of positions overflow, so that other keys are seen."""
  num_q, num_k = 4, 5
  rows, columns = np.arange(num_q)[:, None], np.arange(num_k)[None]
  sizes = {"B": 2, "T": num_q, "S": num_k}
  limits = [0, 2, INT32.max - 1, INT32.max, 2**31, sys.maxsize]
  offsets = [0, 3, -3, INT32.max - 1, INT32.max, INT32.min]
  windows = [None, *limits, *itertools.product(limits[1:], limits[:-1])]

  def right(window, is_causal, offset):
    left, right = window if isinstance(window, tuple) else (window, window)
    distance = columns.astype(object) - rows - int(offset)
    seen = distance >= (-np.inf if left is None else -left)
    return seen & (
      distance <= (0 if is_causal else np.inf if right is None else right)
    )

  index = jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32)
  sees = jax.jit(Window.sees)
  for window, is_causal in itertools.product(windows, (False, True)):
    pair = np.array([offsets[windows.index(window) % 6], offsets[2]])
    for offset in (*offsets, pair, jnp.asarray(pair)):
      made = make_window(window, is_causal, offset, sizes)
      found = np.broadcast_to(sees(made, *index), (2, 1, num_q, num_k))
      for seen, one in zip(
        found[:, 0], np.broadcast_to(offset, 2), strict=True
      ):
        np.testing.assert_array_equal(seen, right(window, is_causal, one))
  for offset in (2**40, np.array([2**40] * 2), np.uint32(2**31)):
    seen = make_window(None, True, offset, sizes).sees(*index)
    assert seen.all()
  for offset in (-(2**40), np.full(2, -(2**40))):
    assert not make_window(None, True, offset, sizes).sees(*index).any()


def test_unlimited_and_empty_windows():
  """Fails if a huge window is an error inside JAX, or if 0 is refused."""
  q, k, v = np.random.default_rng(0).normal(size=(3, 1, 5, 2, 4))

  @functools.partial(jax.jit, static_argnums=0)
  def attend(size):
    return FORMS["from_lse"](q, k, v, local_window_size=size)

  unlimited = attend(None)
  for size in (INT32.max, (2**31, sys.maxsize)):
    np.testing.assert_allclose(attend(size), unlimited, atol=1e-6)
  for size in (0, (0, 0), np.int64(0)):
    np.testing.assert_allclose(attend(size), v, atol=1e-6)


@pytest.mark.parametrize("form", ["whole", "from_lse"])
def test_offset_per_sequence(x64, form):
  """Fails if caches of different lengths do not fit one call."""
  random = np.random.default_rng(1)
  q, y_ct = random.normal(size=(2, 2, 5, 2, 3))
  k, v = random.normal(size=(2, 2, 13, 2, 3))

  @jax.jit
  def gradients(offset, *arrays):
    *qkv, y_ct = arrays
    attend = functools.partial(
      FORMS[form], is_causal=True, local_window_size=6, query_offset=offset
    )
    y, vjp = jax.vjp(attend, *qkv)
    return y, *vjp(y_ct)

  arrays = q, k, v, y_ct
  offsets = jnp.array([10, 1], jnp.int32)
  alone = [
    gradients(offsets[i], *(x[i : i + 1] for x in arrays)) for i in range(2)
  ]
  assert_gradients_close(
    gradients(offsets, *arrays),
    tuple(jnp.concatenate(x) for x in zip(*alone, strict=True)),
    1e-12,
  )


def test_numbers_in_functions_of_positions(x64):
  """Fails if a bias or a mask that is computed from one number fails."""
  q, k, v = np.random.default_rng(0).normal(size=(3, 1, 9, 2, 3))

  def gradients(form):
    def loss(slope, width):
      return form(
        *(q, k, v),
        bias_fn=lambda slope, i, j: -slope * abs(i - j),
        bias_params=slope,
        mask_fn=lambda i, j: abs(i - j) < width,
      )[0].sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))(0.3, 4.5)

  form = functools.partial(
    chunked_softmax_attention_and_lse, q_block_size=4, k_block_size=3
  )
  right = gradients(softmax_attention_and_lse)
  for backward in ("from_lse", "remat"):
    found = gradients(functools.partial(form, backward=backward))
    assert_gradients_close(found, right, 1e-12)


def test_numbers_in_the_mask_of_a_cache():
  """Fails if a mask from measured times has no gradient beside it."""
  q = jax.random.normal(jax.random.key(0), (1, 4, 1, 8))

  def loss(form, q, width):
    y = form(q, mask_fn=lambda i, j: jnp.abs(i - j) < width)
    return jnp.sin(y).sum()

  def appended(q, mask_fn):
    cache = init_cache(1, 8, 1, 8, 8)
    return append_softmax_attention(q, q, q, cache, 0, mask_fn=mask_fn)[0]

  def whole(q, mask_fn):
    return softmax_attention(q, q, q, is_causal=True, mask_fn=mask_fn)

  found, right = (
    jax.jit(jax.grad(lambda q, w, form=form: loss(form, q, w), (0, 1)))(q, 2.5)
    for form in (appended, whole)
  )
  assert_gradients_close(found, right, 1e-5)


@pytest.mark.parametrize(
  "implementation", ["threefry2x32", "rbg", "unsafe_rbg"]
)
def test_dropout_depends_only_on_key_and_position(implementation):
  """Fails if blocks, or rows of a batch, drop other pairs than the whole."""
  base = jax.random.key(5, impl=implementation)
  keys = jax.random.split(base, 3)
  rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in (6, 7))

  def scale(keys, rows, columns):
    return make_dropout_scale(0.5, keys, 2)(rows, columns)

  @jax.jit
  def scales(keys, raw):
    return (
      scale(keys, rows, columns),
      scale(keys, rows[2:5], columns[3:]),
      scale(keys[1:2], rows, columns),
      jax.vmap(lambda key: scale(key[None], rows, columns))(keys),
      scale(raw, rows, columns),
    )

  whole, block, row, one_by_one, of_raw = jax.device_get(
    scales(keys, jax.random.key_data(keys))
  )
  assert whole.shape == (3, 2, 6, 7)
  assert set(np.unique(whole)) == {0, 2}
  equal = np.testing.assert_array_equal
  equal(block, whole[:, :, 2:5, 3:])
  equal(row, whole[1:2])
  equal(one_by_one, whole[:, None])
  equal(of_raw, whole)
  with jax.enable_x64(True):
    equal(jax.jit(scale)(keys, rows, columns), whole)
  # Each sequence, head, query and key draws its own bits.
  for axis in range(4):
    assert (np.diff(whole, axis=axis) != 0).any()
