"""The arguments of softmax attention: which are accepted and refused."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  attention_fn,
  chunked_softmax_attention,
  chunked_softmax_attention_and_lse,
  softmax_attention,
  softmax_attention_and_lse,
)
from slim.kernels.softmax._scores import make_dropout_scale
from slim.kernels.softmax._window import make_window
from tests.helpers import assert_gradients_close

KEYS = jax.random.split(jax.random.key(3), 2)
SHAPES = {"q": (2, 5, 4, 8), "k": (2, 6, 2, 8), "v": (2, 6, 2, 8)}
INT32 = np.iinfo(np.int32)


def zeros(**changes):
  """Arguments of some shape."""
  return {name: jnp.zeros(x) for name, x in (SHAPES | changes).items()}


def in_blocks(backward):
  """The chunked form."""
  return functools.partial(
    chunked_softmax_attention,
    q_block_size=3,
    k_block_size=4,
    backward=backward,
  )


FORMS = {
  "whole": softmax_attention,
  "from_lse": in_blocks("from_lse"),
  "remat": in_blocks("remat"),
}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"q": (2, 3, 4)}, r"q must have shape \[B, T, H, K\], got \(2, 3, 4\)"),
    ({"k": (2, 6, 4, 7)}, r"k must have shape .*K=8, got \(2, 6, 4, 7\)"),
    ({"k": (2, 6, 3, 8), "v": (2, 6, 3, 8)}, "k must have a number of heads"),
    ({"v": (2, 5, 2, 8)}, r"v must have shape .*S=6.*got \(2, 5, 2, 8\)"),
    ({"bias": (2, 4, 5, 3)}, r"bias must broadcast to \[B=2, H=4, T=5, S=6\]"),
    ({"mask": (5, 6)}, "mask must be boolean, .* got float32; pass what is ad"),
    ({"local_window_size": -1}, "local_window_size must be an integer >= 0 or"),
    ({"local_window_size": (1, -2)}, r"got \(1, -2\)"),
    ({"local_window_size": 2.5}, "local_window_size .* got 2.5"),
    ({"local_window_size": True}, "local_window_size .* got True"),
    ({"is_causal": "no"}, "is_causal must be True or False, got 'no'"),
    ({"query_offset": 2.7}, r"query_offset must be an integer.*\[B=2\].*2.7"),
    ({"query_offset": "1"}, "query_offset must be an integer, .* got '1'"),
    ({"query_offset": True}, "query_offset must be an integer, .* got True"),
    ({"query_offset": np.zeros(2)}, "query_offset must be .* got float64"),
    ({"query_offset": KEYS}, "query_offset must be .* got key<fry>"),
    ({"query_offset": np.arange(3)}, r"query_offset .* got shape \(3,\)"),
    ({"query_offset": np.array([[0], [4]])}, r"query_offset .* shape \(2, 1\)"),
    ({"scale": "1"}, r"scale must be a number, .* shape \[\], got '1'"),
    ({"scale": True}, "scale must be a number, .* got True"),
    ({"scale": np.ones(2)}, r"scale must be .* got float64 of shape \(2,\)"),
    ({"scale": KEYS[0]}, r"scale must be .* got key<fry> of shape \(\)"),
    ({"dropout_rate": 1.0}, r"dropout_rate must be in \[0, 1\), got 1.0"),
    ({"dropout_rate": np.float32(-1)}, r"dropout_rate must be in \[0, 1\)"),
    ({"dropout_rate": "0.1"}, "dropout_rate must be a number, .* got '0.1'"),
    ({"dropout_keys": KEYS[:1]}, r"dropout_keys must be .* \(2,\), got \(1,\)"),
    ({"dropout_keys": 1}, "dropout_keys must be PRNG keys, as from jax.random"),
    ({"precision": "low"}, "precision must be None or .* got 'low'"),
    ({"q_block_size": 0}, "q_block_size must be a positive integer, got 0"),
    ({"k_block_size": 1.5}, "k_block_size must be a positive integer, got 1."),
    ({"backward": "lse"}, r"backward must be one of .*'remat'\), got 'lse'"),
    ({"mask_fn": 1}, "mask_fn must be a function or None, got 1"),
    ({"bias_fn": "f"}, "bias_fn must be a function or None, got 'f'"),
    (
      {"mask_fn": lambda i, j: (i > j)[:3]},
      r"what mask_fn returns must broadcast to \[B=2, H=4, s=5, t=6\], got sh",
    ),
    ({"mask_fn": lambda i, j: i - j}, "what mask_fn returns must be boolean"),
    (
      {"bias_fn": lambda _, i, j: jnp.zeros((3, 1, 1))},
      r"what bias_fn returns must broadcast .* got shape \(3, 1, 1\)",
    ),
    ({"bias_fn": lambda _, i, j: i - j}, "what bias_fn returns must be float"),
  ],
)
def test_wrong_arguments_are_refused(changes, message):
  """Fails if the error comes from inside a loop, or if there is none."""
  arrays = {
    name: changes.pop(name)
    for name in ("q", "k", "v", "bias", "mask")
    if name in changes
  }
  with pytest.raises(ValueError, match=message) as error:
    chunked_softmax_attention_and_lse(**zeros(**arrays), **changes)
  assert "\n" not in str(error.value)


def test_non_arrays_are_refused():
  """Fails if the error does not name the argument and what was found."""
  arguments = zeros()
  with pytest.raises(ValueError, match="k must be an array, got NoneType"):
    softmax_attention(arguments["q"], None, arguments["v"])
  x = jnp.zeros((1, 2, 1, 3), jnp.int32)
  with pytest.raises(ValueError, match="q must be floating-point, got int32"):
    softmax_attention(x, x, x)
  with pytest.raises(ValueError, match="dropout_rate must be known when the"):
    jax.jit(lambda rate: softmax_attention(**arguments, dropout_rate=rate))(0.1)


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
  for window, is_causal in itertools.product(windows, (False, True)):
    pair = np.array([offsets[windows.index(window) % 6], offsets[2]])
    for offset in (*offsets, pair, jnp.asarray(pair)):
      made = make_window(window, is_causal, offset, sizes)
      found = np.broadcast_to(made.sees(*index), (2, 1, num_q, num_k))
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


@pytest.mark.parametrize(
  ("form", "dtype"),
  [
    ("whole", "float64"),
    ("from_lse", "float64"),
    ("from_lse", "bfloat16"),
    ("remat", "float64"),
  ],
)
def test_array_as_scale(x64, form, dtype):
  """Fails if a learned temperature cannot be traced or differentiated."""
  random = np.random.default_rng(2)
  q, k, v = jnp.asarray(random.normal(size=(3, 1, 5, 2, 3)), dtype)

  def loss(attend, q, k, v, scale):
    y = attend(q, k, v, scale=scale, is_causal=True)
    return jnp.sin(y.astype(jnp.float64)).sum()

  def by_hand(q, k, v, scale):
    q = jnp.asarray(q, jnp.float64) * scale
    k, v = (jnp.asarray(x, jnp.float64) for x in (k, v))
    return loss(softmax_attention, q, k, v, 1.0)

  scales = jnp.array([0.5, 0.0, -2.0])

  def gradients(fn):
    gradient = jax.grad(fn, (0, 1, 2, 3))
    return jax.jit(jax.vmap(gradient, (None, None, None, 0)))(q, k, v, scales)

  tol = 1e-12 if dtype == "float64" else 0.02
  found = gradients(functools.partial(loss, FORMS[form]))
  assert_gradients_close(found, gradients(by_hand), tol)


def test_numbers_of_numpy_and_jax():
  """Fails if numbers of NumPy or JAX are refused."""
  q, k, v = (x + 1 for x in zeros().values())

  numbers = (
    (0.25, 0.5),
    (np.float32(0.25), np.float32(0.5)),
    (jnp.float32(0.25), jnp.bfloat16(0.5)),
    (1 - 1e-10, jnp.int32(1)),
  )

  @functools.partial(jax.jit, static_argnums=0)
  def attend(i):
    rate, scale = numbers[i]
    return chunked_softmax_attention(
      q,
      k,
      v,
      scale=scale,
      dropout_rate=rate,
      dropout_keys=KEYS,
      is_causal=np.True_,
    )

  for i in (1, 2):
    np.testing.assert_array_equal(attend(i), attend(0))
  # Almost everything is dropped, and nothing overflows.
  np.testing.assert_array_equal(attend(3), 0)


@pytest.mark.parametrize(
  "implementation", ["threefry2x32", "rbg", "unsafe_rbg"]
)
def test_dropout_depends_only_on_key_and_position(implementation):
  """Fails if blocks, or rows of a batch, drop other pairs than the whole."""
  base = jax.random.key(5, impl=implementation)
  keys = jax.random.split(base, 3)
  rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in (6, 7))
  whole = make_dropout_scale(0.5, keys, 2)(rows, columns)
  assert whole.shape == (3, 2, 6, 7)
  assert set(np.unique(whole)) == {0, 2}
  equal = np.testing.assert_array_equal
  equal(
    make_dropout_scale(0.5, keys, 2)(rows[2:5], columns[3:]),
    whole[:, :, 2:5, 3:],
  )
  equal(make_dropout_scale(0.5, keys[1:2], 2)(rows, columns), whole[1:2])
  equal(
    jax.vmap(lambda key: make_dropout_scale(0.5, key[None], 2)(rows, columns))(
      keys
    ),
    whole[:, None],
  )
  raw = jax.random.key_data(keys)
  equal(make_dropout_scale(0.5, raw, 2)(rows, columns), whole)
  with jax.enable_x64(True):
    equal(make_dropout_scale(0.5, keys, 2)(rows, columns), whole)
  # Each sequence, head, query and key draws its own bits.
  for axis in range(4):
    assert (np.diff(whole, axis=axis) != 0).any()


def test_batch_of_0():
  """Fails if a batch without sequences is an error of a reshape."""
  q, k, v = zeros(q=(0, 5, 4, 8), k=(0, 6, 2, 8), v=(0, 6, 2, 8)).values()
  for form in FORMS.values():
    gradients = jax.grad(
      lambda *qkv, form=form: form(
        *qkv,
        jnp.zeros((0, 1, 5, 6)),
        jnp.ones((0, 1, 5, 6), bool),
        is_causal=True,
        query_offset=jnp.zeros(0, jnp.int32),
        dropout_rate=0.1,
        dropout_keys=KEYS[:0],
      ).sum(),
      (0, 1, 2),
    )
    shapes = jax.eval_shape(gradients, q, k, v)
    assert [x.shape for x in shapes] == [x.shape for x in (q, k, v)]
  x = jnp.zeros((2, 0, 5, 4, 8))
  run = functools.partial(
    attention_fn, dropout_rate=0.1, dropout_rng=jax.random.key(0)
  )
  assert jax.eval_shape(run, x, x, x).shape == x.shape
  y, lse = jax.eval_shape(softmax_attention_and_lse, q, k, v)
  assert (y.shape, lse.shape) == ((0, 5, 4, 8), (0, 5, 4))


def test_mask_function_as_documented():
  """Fails if the docstring's example raises under strict rank promotion."""
  lengths = jnp.array([6, 2])
  arguments = zeros()
  arguments["v"] = jnp.broadcast_to(jnp.eye(6, 8)[:, None], (2, 6, 2, 8))
  mask_fn = lambda i, j: j < lengths[:, None, None, None]  # noqa: E731
  for form in (softmax_attention, chunked_softmax_attention):
    y = jax.jit(functools.partial(form, mask_fn=mask_fn))(**arguments)
    right = np.broadcast_to([0.5, 0.5, 0], (5, 4, 3))
    np.testing.assert_allclose(y[1, ..., :3], right)
