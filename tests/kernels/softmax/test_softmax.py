"""Softmax attention: the definition, and the same block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.certify.gradient_error import relative_errors
from slim.kernels import (
  chunked_softmax_attention,
  chunked_softmax_attention_and_lse,
  merge_attention,
  softmax_attention,
  softmax_attention_and_lse,
)
from tests.helpers import assert_gradients_close, pairwise

TOLERANCES = {"float64": 1e-12, "float32": 2e-6}
KEYS = jax.random.split(jax.random.key(3), 2)
PERIODS = np.array([3, 5])
DEFINITION = softmax_attention_and_lse


def make_inputs(sizes, seed=0):
  """q, k, v, a bias and a parameter; a mask; cotangents of y and lse."""
  batch, num_q, num_k, heads, groups, width, value_width = sizes
  random = np.random.default_rng(seed)
  inputs = {
    "q": random.normal(size=(batch, num_q, heads, width)),
    "k": random.normal(size=(batch, num_k, groups, width)),
    "v": random.normal(size=(batch, num_k, groups, value_width)),
    "bias": random.normal(size=(1, heads, num_q, num_k)),
    "slope": random.normal(size=(heads, 1, 1)),
  }
  mask = random.random((batch, 1, num_q, num_k)) < 0.7
  cts = (
    random.normal(size=(batch, num_q, heads, value_width)),
    random.normal(size=(batch, num_q, heads)),
  )
  return inputs, mask, cts


def settings_of(name, inputs, mask):
  """The arguments of a kind of attention."""
  keys = KEYS[:1].repeat(inputs["q"].shape[0])
  return {
    "plain": {},
    "causal": {"is_causal": True},
    "offset": {"is_causal": True, "query_offset": 5},
    "window": {"local_window_size": (3, 2)},
    "causal window": {"is_causal": True, "local_window_size": 4, "scale": 0.7},
    "bias": {"bias": inputs["bias"]},
    "bias of keys": {"bias": inputs["bias"][:, :, :1]},
    "mask": {"mask": mask},
    "all": {
      "bias": inputs["bias"],
      "mask": mask[:, :, :, :1],
      "is_causal": True,
      "local_window_size": (6, 3),
      "query_offset": 2,
      "dropout_rate": 0.3,
      "dropout_keys": keys,
    },
    "functions": {
      # A mask per sequence, and a bias per head.
      "mask_fn": lambda i, j: (
        (i + j)[None, None] % PERIODS[: len(keys), None, None, None] > 0
      ),
      "bias_fn": lambda slope, i, j: -slope * abs(i - j)[None],
      "bias_params": inputs["slope"],
    },
    "dropout": {"dropout_rate": 0.3, "dropout_keys": keys},
    "scale": {"scale": inputs["slope"][0, 0, 0]},
    "offsets": {
      "is_causal": True,
      "local_window_size": 7,
      "query_offset": np.array([-2, 5])[: len(keys)],
      "scale": inputs["slope"][0, 0, 0],
    },
  }[name]


KINDS = [
  "plain",
  "causal",
  "offset",
  "window",
  "causal window",
  "bias",
  "bias of keys",
  "mask",
  "all",
  "functions",
  "dropout",
  "offsets",
]


def value_and_gradients(attend, kind, inputs, mask, cts, dtype):
  """y and lse, and the gradients of all inputs, compiled."""
  inputs, cts = jax.tree.map(lambda x: jnp.asarray(x, dtype), (inputs, cts))

  @jax.jit
  def run(inputs, cts):
    def of(inputs):
      y, lse = attend(
        inputs["q"],
        inputs["k"],
        inputs["v"],
        **settings_of(kind, inputs, mask),
      )
      sees = lse > -jnp.inf
      # A query without keys has an lse of -inf, without gradient.
      return (y, jnp.where(sees, lse, 0)), sees

    outputs, vjp, sees = jax.vjp(of, inputs, has_aux=True)
    return (*outputs, sees), vjp(cts)

  return run(inputs, cts)


@functools.cache
def by_definition(kind, sizes, seed):
  """The reference, in float64, computed once for all forms and dtypes."""
  return value_and_gradients(
    DEFINITION, kind, *make_inputs(sizes, seed), "float64"
  )


def assert_same(attend, kind, sizes, dtype, seed=0):
  """Compares with the definition, in the same precision or in float64."""
  found = value_and_gradients(attend, kind, *make_inputs(sizes, seed), dtype)
  right = by_definition(kind, sizes, seed)
  np.testing.assert_array_equal(found[0][2], right[0][2])
  if dtype == "float32":
    # The slope's gradient is a sum over all pairs with cancellation.
    slopes = [x[1][0]["slope"] for x in (found, right)]
    assert_gradients_close(*slopes, 1e-5)
    found, right = (
      (outputs, {name: x for name, x in gradients.items() if name != "slope"})
      for outputs, (gradients,) in (found, right)
    )
  assert_gradients_close(found, right, TOLERANCES[dtype])


def in_blocks(q_block_size, k_block_size, backward="from_lse"):
  """The chunked form, with a name for the test's identifier."""
  form = functools.partial(
    chunked_softmax_attention_and_lse,
    q_block_size=q_block_size,
    k_block_size=k_block_size,
    backward=backward,
  )
  form.__name__ = f"{q_block_size}x{k_block_size}-{backward}"
  return form


def by_jax(q, k, v, bias=None, mask=None, **kwargs):
  """The attention of JAX, as an independent reference."""
  return jax.nn.dot_product_attention(
    q, k, v, bias, mask, return_residual=True, **kwargs
  )


@pytest.mark.parametrize(
  "kind",
  [
    "plain",
    "causal",
    "window",
    "causal window",
    "bias",
    "bias of keys",
    "mask",
    "scale",
  ],
)
def test_definition_equals_jax(x64, kind):
  """Fails if the definition, the reference of all other tests, is wrong."""
  inputs, mask, cts = make_inputs((2, 7, 9, 4, 2, 8, 8))
  # JAX attends to all keys if a query sees none, and does not differentiate
  # the log-sum-exp.
  mask[..., 0] = True
  cts[1][:] = 0
  found = value_and_gradients(DEFINITION, kind, inputs, mask, cts, "float64")
  right = value_and_gradients(by_jax, kind, inputs, mask, cts, "float64")
  # JAX computes a part in float32.
  assert_gradients_close(found, right, 1e-6)


@pytest.mark.parametrize(
  "case",
  pairwise(
    kind=KINDS,
    form=[
      in_blocks(4, 3),
      in_blocks(5, 16),
      in_blocks(64, 64),
      in_blocks(3, 4, "remat"),
    ],
    # B, T, S, H, G, K, V.
    sizes=[
      (2, 13, 13, 4, 2, 3, 5),
      (1, 7, 19, 2, 2, 4, 3),
      (2, 16, 8, 3, 1, 1, 1),
    ],
    dtype=list(TOLERANCES),
  ),
)
def test_blocks_equal_the_definition(x64, case):
  """Fails if blocks compute another value or gradient."""
  assert_same(case["form"], case["kind"], case["sizes"], case["dtype"])


@settings(max_examples=5)
@given(
  sizes=st.tuples(
    st.integers(1, 2),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([2, 4]),
    st.sampled_from([1, 2]),
    st.integers(1, 5),
    st.integers(1, 5),
  ),
  blocks=st.tuples(st.integers(1, 320), st.integers(1, 320)),
  kind=st.sampled_from(KINDS),
  seed=st.integers(0, 5),
)
def test_any_lengths_and_blocks(sizes, blocks, kind, seed):
  """Fails if some length is cut or padded wrongly."""
  # Avoids thousands of tiny blocks.
  blocks = [max(b, n // 8) for b, n in zip(blocks, sizes[1:3], strict=True)]
  with jax.enable_x64(True):
    assert_same(in_blocks(*blocks), kind, sizes, "float64", seed)


def test_query_without_keys(x64):
  """Fails if y is NaN or the mean of all values, or a gradient is NaN."""
  inputs, mask, cts = make_inputs((2, 6, 6, 2, 2, 3, 3))
  mask[:, :, 2] = False
  for form in (
    DEFINITION,
    in_blocks(4, 4),
    in_blocks(4, 4, "remat"),
  ):
    (y, _, sees), (gradients,) = value_and_gradients(
      form, "mask", inputs, mask, cts, "float64"
    )
    assert not sees[:, 2].any()
    assert not y[:, 2].any()
    assert not gradients["q"][:, 2].any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores(size):
  """Fails if the exponential overflows, or a whole row underflows."""
  inputs, mask, cts = make_inputs((1, 9, 9, 2, 2, 3, 3))
  inputs["bias"] = inputs["bias"] + size
  inputs["q"] = 1e4 * inputs["q"]
  found = value_and_gradients(
    in_blocks(4, 4), "bias", inputs, mask, cts, "float32"
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


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
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")
  whole = jax.jit(functools.partial(DEFINITION, is_causal=True))(q, k, v)
  form = functools.partial(in_blocks(3, 4), is_causal=True)
  at_offset = jax.jit(lambda *qkv, offset: form(*qkv, query_offset=offset))
  pieces = [
    at_offset(q[:, a:b], k, v, offset=jnp.int32(a))
    for a, b in ((0, 4), (4, 5), (5, 11))
  ]
  joined = [jnp.concatenate(x, 1) for x in zip(*pieces, strict=True)]
  assert_gradients_close(joined, list(whole), 1e-12)
  # The first queries see no key of the second half.
  halves = [
    jax.jit(functools.partial(form, query_offset=-a))(q, k[:, a:b], v[:, a:b])
    for a, b in ((0, 6), (6, 11))
  ]
  assert_gradients_close(merge_attention(halves), whole, 1e-12)
  nothing = (jnp.zeros_like(whole[0]), jnp.full_like(whole[1], -jnp.inf))
  merged = merge_attention([nothing, nothing])
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


def test_second_derivatives(x64):
  """Fails if they fail somewhere inside, or are wrong."""
  inputs, _, _ = make_inputs((1, 5, 5, 2, 1, 3, 3))
  k, v = jnp.asarray(inputs["k"]), jnp.asarray(inputs["v"])

  def curvature(form):
    def loss(q):
      return jnp.sin(form(q, k, v)[0]).sum()

    return jax.grad(lambda q: jnp.sum(jax.grad(loss)(q) ** 2))

  q = jnp.asarray(inputs["q"])
  right = jax.jit(curvature(DEFINITION))(q)
  found = jax.jit(curvature(in_blocks(2, 3, "remat")))(q)
  assert_gradients_close(found, right, 1e-12)
  message = "has first derivatives only; .* softmax_attention, or backward='re"
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(curvature(in_blocks(2, 3)), q)


def test_forward_mode(x64):
  """Fails if it is wrong, or refused by a form that supports it."""
  inputs, _, _ = make_inputs((1, 5, 5, 2, 1, 3, 3))
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")

  def slope(form):
    ones = jnp.ones_like(q)
    return jax.jit(
      lambda q: jax.jvp(lambda q: form(q, k, v)[0], (q,), (ones,))
    )(q)

  form = in_blocks(2, 3, "remat")
  assert_gradients_close(slope(form), slope(DEFINITION), 1e-12)
  with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
    slope(in_blocks(2, 3))


def test_vmap_and_shard_map(x64):
  """Fails if a loop carry varies differently over a mesh than its inputs."""
  inputs, _, _ = make_inputs((8, 6, 6, 2, 2, 3, 3))
  q, k, v = (jnp.asarray(inputs[name]) for name in "qkv")

  def gradient(q, k, v):
    form = in_blocks(4, 4)
    return jax.grad(
      lambda *x: jnp.sin(form(*x, is_causal=True)[0]).sum(), (0, 1, 2)
    )(q, k, v)

  right = jax.jit(gradient)(q, k, v)
  split = [x.reshape(4, 2, *x.shape[1:]) for x in (q, k, v)]
  found = jax.jit(jax.vmap(gradient))(*split)
  found = [x.reshape(8, *x.shape[2:]) for x in found]
  assert_gradients_close(found, list(right), 1e-12)
  mesh = jax.make_mesh(
    (8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  sharded = jax.shard_map(gradient, mesh=mesh, in_specs=spec, out_specs=spec)
  assert_gradients_close(jax.jit(sharded)(q, k, v), right, 1e-12)


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


def test_drop_in_for_jax():
  """Fails if it cannot replace `jax.nn.dot_product_attention`."""
  inputs, mask, _ = make_inputs((2, 5, 7, 4, 2, 3, 3))
  q, k, v, bias = (
    jnp.asarray(inputs[name], jnp.float32) for name in ("q", "k", "v", "bias")
  )
  mask[..., 0] = True
  by_them = functools.partial(jax.nn.dot_product_attention, scale=0.3)
  right = jax.jit(by_them)(q, k, v, bias, mask)
  for attend in (softmax_attention, chunked_softmax_attention):
    y = jax.jit(functools.partial(attend, scale=0.3))(q, k, v, bias, mask)
    np.testing.assert_allclose(y, right, atol=1e-6)
