"""LSH attention: softmax over all pairs that meet in some round."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error
from slim.kernels import lsh_attention, lsh_buckets
from slim.kernels.lsh.buckets import _factors
from tests.helpers import AS_USERS, assert_gradients_close, pairwise

TOLERANCES = {"float64": 1e-12, "float32": 2e-6}
H, K, V = 4, 6, 5
SCALE = 1 / math.sqrt(K)


def make_inputs(length, num_hashes=3, batch=2):
  """Shared queries and keys, values, a cotangent of y, and buckets."""
  random = np.random.default_rng(length)
  qk, v, y_ct = (
    random.normal(size=(batch, length, H, width)) for width in (K, V, V)
  )
  shape = (batch, H, num_hashes, length)
  return qk, v, y_ct, random.integers(0, 3, shape, dtype=np.uint8)


def rounds_met(buckets, chunk_size):
  """The number of rounds in which query i meets key j, [B, H, T, T]."""
  batch, num_heads, num_hashes, length = buckets.shape
  met = np.zeros((batch, num_heads, length, length))
  for b, h, r in np.ndindex(batch, num_heads, num_hashes):
    order = np.argsort(buckets[b, h, r], kind="stable")
    chunk = np.empty(length, int)
    chunk[order] = np.arange(length) // chunk_size
    met[b, h] += np.isin(chunk[:, None] - chunk, (0, 1))
  met[..., np.arange(length), np.arange(length)] = 0
  return met


def by_pairs(
  qk,
  v,
  y_ct,
  buckets,
  *,
  chunk_size,
  scale=SCALE,
  is_causal=False,
  count_once=True,
):
  """y and the gradients of scale, qk and v from all pairs, in NumPy."""
  qk, v, y_ct = (np.float64(np.swapaxes(x, 1, 2)) for x in (qk, v, y_ct))
  met = rounds_met(buckets, chunk_size)
  met = np.minimum(met, 1) if count_once else met
  met = np.tril(met) if is_causal else met
  lengths = np.linalg.norm(qk, axis=-1, keepdims=True)
  k = qk / lengths
  products = qk @ np.swapaxes(k, -1, -2)
  p = met * np.exp(scale * products)
  alone = p.sum(-1, keepdims=True) == 0
  p /= np.where(alone, 1, p.sum(-1, keepdims=True))
  y = np.where(alone, v, p @ v)
  p_ct = y_ct @ np.swapaxes(v, -1, -2)
  scores_ct = p * (p_ct - (p * p_ct).sum(-1, keepdims=True))
  k_ct = scale * np.swapaxes(scores_ct, -1, -2) @ qk
  qk_ct = scale * scores_ct @ k
  qk_ct += (k_ct - k * (k * k_ct).sum(-1, keepdims=True)) / lengths
  v_ct = np.swapaxes(p, -1, -2) @ y_ct + alone * y_ct
  y, qk_ct, v_ct = (np.swapaxes(x, 1, 2) for x in (y, qk_ct, v_ct))
  return y, ((scores_ct * products).sum(), qk_ct, v_ct)


@functools.partial(
  jax.jit,
  static_argnames=[
    "chunk_size",
    "is_causal",
    "count_once",
    "rounds",
    "heads_at_once",
  ],
)
def by_rounds(qk, v, y_ct, buckets, *, scale=SCALE, **settings):
  """The same by the kernel; equal settings and shapes compile once."""

  def attend(scale, qk, v):
    return lsh_attention(qk, v, buckets, scale=scale, **settings)

  y, vjp = jax.vjp(attend, jnp.asarray(scale), qk, v)
  return y, vjp(y_ct)


@pytest.mark.parametrize(
  "case",
  pairwise(
    rounds=["sequential", "parallel"],
    is_causal=[False, True],
    count_once=[False, True],
    # Chunks of one token, a short last chunk, and one chunk for all.
    chunk_size=[1, 4, 20],
    length=[1, 7, 13],
    num_hashes=[1, 3],
    dtype=["float64", "float32"],
  ),
)
def test_rounds_equal_softmax_over_pairs_that_meet(x64, case):
  """Fails if a pair, or its gradient, is left out or counted twice.

  Also if a head gets the tokens, or the order, of another.
  """
  dtype = case.pop("dtype")
  *arrays, buckets = make_inputs(case.pop("length"), case.pop("num_hashes"))
  arrays = [x.astype(dtype) for x in arrays]
  case["heads_at_once"] = 2 if case["is_causal"] else None
  found = by_rounds(*arrays, buckets, scale=np.asarray(0.7, dtype), **case)
  of_pairs = {
    name: case[name] for name in ("chunk_size", "is_causal", "count_once")
  }
  right = by_pairs(*arrays, buckets, scale=0.7, **of_pairs)
  assert_right(found, right, arrays[2], TOLERANCES[dtype])


def assert_right(found, right, y_ct, tol):
  """Compares what `by_rounds` and `by_pairs` return."""
  (y, (scale_ct, *cts)), (right_y, (right_scale_ct, *right_cts)) = found, right
  assert_gradients_close((y, cts), (right_y, right_cts), tol)
  # The gradient of the scale is a sum over all pairs with cancellation.
  assert abs(scale_ct - right_scale_ct) <= tol * np.abs(y_ct).sum()


def test_one_chunk_is_full_attention(x64):
  """Fails if the hashing matters although nothing is left out."""
  qk, *_, buckets = make_inputs(9)
  found, _ = by_rounds(qk, qk, qk, buckets, chunk_size=2**31)
  k = qk / np.linalg.norm(qk, axis=-1, keepdims=True)
  p = np.exp(SCALE * np.einsum("bihk,bjhk->bhij", qk, k)) * (1 - np.eye(9))
  p /= p.sum(-1, keepdims=True)
  right = np.einsum("bhij,bjhk->bihk", p, qk)
  assert_gradients_close(found, right, 1e-12)


def test_more_rounds_than_a_byte_counts(x64):
  """Fails if pairs that meet in 256 rounds count as if they met in one."""
  qk, v, y_ct, buckets = make_inputs(5, num_hashes=300)
  buckets[:, :, :256] = [0, 0, 1, 1, 2]
  arrays = qk, v, y_ct, buckets
  found = by_rounds(*arrays, chunk_size=2)
  assert (rounds_met(buckets, 2) >= 256).any()
  assert_gradients_close(found, by_pairs(*arrays, chunk_size=2), 1e-12)


@pytest.mark.parametrize("rounds", ["sequential", "parallel"])
def test_scale_may_be_an_array(rounds):
  """Fails if a learned temperature fails inside JAX, or has no gradient.

  Causal: the first token sees no other, in both forms of the rounds.
  """
  *arrays, buckets = make_inputs(7)
  arrays = [jnp.asarray(x, jnp.float32) for x in arrays]
  scales = jnp.float32([0.25, 1.5])
  settings = {"chunk_size": 2, "is_causal": True}
  run = functools.partial(by_rounds, *arrays, buckets, rounds=rounds)
  found = jax.vmap(lambda scale: run(scale=scale, **settings))(scales)
  for i, scale in enumerate(scales.tolist()):
    right = by_pairs(*arrays, buckets, scale=scale, **settings)
    one = jax.tree.map(lambda x, i=i: x[i], found)
    assert_right(one, right, arrays[2], TOLERANCES["float32"])


def test_scale_of_short_floats():
  """Fails if an array scales by another number than a float, or widens y."""
  *arrays, buckets = make_inputs(7)
  arrays = [jnp.asarray(x, jnp.bfloat16) for x in arrays]
  found = by_rounds(*arrays, buckets, chunk_size=2, scale=jnp.float32(0.3))
  y = jax.jit(functools.partial(lsh_attention, chunk_size=2, scale=0.3))(
    *arrays[:2], buckets
  )
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found[0], y)
  wide = [x.astype(jnp.float32) for x in arrays]
  right = by_pairs(*wide, buckets, chunk_size=2, scale=0.3)
  found = jax.tree.map(lambda x: x.astype(jnp.float32), found)
  assert_gradients_close(found, right, 0.03)


def test_more_rounds_are_nearer_to_full_attention():
  """Fails if all rounds miss the same pairs."""
  clusters, each, width = 16, 16, 32
  length = clusters * each
  random = np.random.default_rng(0)
  centers = random.normal(size=(clusters, width))
  of_token = random.permutation(np.repeat(np.arange(clusters), each))
  noise = 0.1 * random.normal(size=(length, width))
  qk = np.float32((centers[of_token] + noise)[None, :, None])
  v = random.normal(size=(1, length, 1, width)).astype(np.float32)
  # Peaked: a query attends almost only to its own cluster.
  same = np.zeros((1, 1, 1, length), np.uint8)
  right, _ = by_pairs(qk, v, v, same, chunk_size=length, scale=6.0)
  buckets = jax.jit(
    functools.partial(lsh_buckets, num_buckets=2 * clusters, num_hashes=16)
  )(qk, jax.random.key(0))
  attend = jax.jit(
    functools.partial(lsh_attention, chunk_size=32, scale=6.0),
  )

  def repeats(n):
    return 1, 1, 16 // n, 1

  # Repeated rounds count once, so one program serves all three.
  errors = [
    largest_error(attend(qk, v, np.tile(buckets[:, :, :n], repeats(n))), right)
    for n in (1, 4, 16)
  ]
  assert errors[0] > errors[1] > errors[2], errors
  assert errors[2] <= 1e-3, errors


def overhead(num_hashes, length=4096):
  """Temporary bytes of a gradient of 8 heads of 64, compiled only."""
  x = jax.ShapeDtypeStruct((1, length, 8, 64), jnp.float32)
  buckets = jax.ShapeDtypeStruct((1, 8, num_hashes, length), jnp.uint8)

  def loss(qk, v, buckets):
    return lsh_attention(qk, v, buckets, chunk_size=64, is_causal=True).sum()

  lowered = jax.jit(jax.grad(loss, (0, 1))).lower(x, x, buckets)
  return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_rounds():
  """Fails if sequential rounds need more memory than one round."""
  few, many = overhead(2), overhead(16)
  # The ranks of the tokens, and their order during sorting.
  assert many - few <= 14 * 8 * 4096 * 13, (few, many)


@pytest.mark.slow
def test_memory_is_linear_in_the_length():
  """Fails if a long sequence needs all pairs at once."""
  assert overhead(4, length=16384) <= 4.1 * overhead(4)


@functools.partial(jax.jit, static_argnames=["num_buckets", "num_hashes"])
def hashed(x, key, num_buckets, num_hashes=2):
  """Hashes, compiled once for equal arguments."""
  return lsh_buckets(x, key, num_buckets=num_buckets, num_hashes=num_hashes)


@pytest.mark.parametrize(
  ("num_buckets", "factors", "dtype"),
  [
    (6, [6], "uint8"),
    (64, [64], "uint8"),
    (128, [8, 16], "uint8"),
    (512, [16, 32], "uint16"),
  ],
)
def test_buckets_are_the_nearest_axes(num_buckets, factors, dtype):
  """Fails if a trained model is hashed by other rotations than in training."""
  x = np.random.default_rng(0).normal(size=(2, 50, 3, 8)).astype(np.float32)
  key = jax.random.key(1)
  right = 0
  for n, one in zip(factors, jax.random.split(key, len(factors)), strict=True):
    rotations = jax.random.normal(one, (8, 2, n // 2), jnp.float32)
    rotated = np.einsum("bthk,krn->bhrtn", x, rotations)
    digit = np.argmax(np.concatenate([rotated, -rotated], -1), -1)
    right = right * n + digit
  found = hashed(x, key, num_buckets)
  assert found.dtype == dtype
  np.testing.assert_array_equal(found, right)
  # Only the direction matters, in float64 and float32.
  found = hashed(4 * np.float64(x), key, num_buckets)
  np.testing.assert_array_equal(found, right)


def test_count_without_even_factors_has_as_many_buckets():
  """Fails if most tokens share few buckets, or a bucket is out of range."""
  x = jax.random.normal(jax.random.key(0), (1, 3000, 1, 8))
  found = np.asarray(hashed(x, jax.random.key(1), 74)).ravel()
  count = np.bincount(found, minlength=74)
  assert len(count) == 74  # Of 8 · 10 pairs, twelve share six buckets.
  assert count.min() > 0
  assert count[:6].mean() == pytest.approx(2 * count[6:].mean(), rel=0.3)


def test_two_hashes_of_any_count_cost_the_same():
  """Fails if hashing costs as much as one hash into all buckets."""
  for num_buckets in [*range(66, 3000, 2), 2 * 49999, 10**6, 2**20, 2**30]:
    low, high = _factors(num_buckets)
    assert low % 2 == high % 2 == 0
    assert num_buckets <= low * high <= 1.12 * num_buckets
    assert high <= 1.85 * num_buckets**0.5, (num_buckets, low, high)


def hashing_costs(length):
  """Temporary bytes and operations of a model's hashes, compiled only."""
  x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)
  compiled = hashed.lower(
    x, jax.random.key(0), num_buckets=2 * round(length / 128), num_hashes=2
  ).compile(AS_USERS)
  return (
    compiled.memory_analysis().temp_size_in_bytes,
    compiled.cost_analysis()["flops"],
  )


@pytest.mark.parametrize(
  "length",
  [
    65_664,  # 2 · 3³ · 19 buckets.
    pytest.param(33_536, marks=pytest.mark.slow),  # 4 · 131.
    pytest.param(65_537, marks=pytest.mark.slow),  # Prime.
    pytest.param(66_688, marks=pytest.mark.slow),  # 2 · 521.
    pytest.param(100_000, marks=pytest.mark.slow),  # 2 · 11 · 71.
    pytest.param(100_003, marks=pytest.mark.slow),  # Prime.
    pytest.param(130_944, marks=pytest.mark.slow),  # 2 · 3 · 11 · 31.
  ],
)
def test_hashing_a_neighbouring_length_costs_the_same(length):
  """Fails if one more chunk takes ten times the memory."""
  ends = 32_768, 131_072
  costs = [hashing_costs(n) for n in ends]
  for found, *right in zip(hashing_costs(length), *costs, strict=True):
    assert found <= 1.2 * np.interp(length, ends, right), (found, right)


def test_near_vectors_fall_into_one_bucket():
  """Fails if sorting by bucket does not bring near vectors together."""
  random = np.random.default_rng(0)
  x, noise = random.normal(size=(2, 1, 500, 1, 64)).astype(np.float32)
  of = functools.partial(hashed, key=jax.random.key(2), num_buckets=64)
  assert (of(x) == of(x + 0.05 * noise)).mean() > 0.8
  assert (of(x) == of(-x)).mean() < 0.01
  one, two = np.moveaxis(of(x), 2, 0)
  assert (one != two).mean() > 0.7  # Each round has its own rotations.


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"qk": (2, 3, 4)}, r"qk must have shape \[B, T, H, K\], got \(2, 3, 4\)"),
    (
      {"v": (2, 6, 3, 4)},
      r"v must have shape .*T=5.*\(2, 6, 3, 4\)",
    ),
    ({"buckets": (2, 3, 1, 6)}, r"buckets must have shape .* got \(2, 3, 1, 6"),
    ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
    ({"heads_at_once": 2}, "heads_at_once must divide H = 3, got 2"),
    ({"heads_at_once": 0}, "heads_at_once must be a positive integer, got 0"),
    ({"rounds": "all"}, r"rounds must be one of .*'parallel'\), got 'all'"),
    ({"scale": np.ones(2)}, r"scale must be a number.* of shape \(2,\)"),
    ({"scale": "1"}, r"scale must be a number.* got '1'"),
    ({"scale": 1j}, r"scale must be a number.* got 1j"),
  ],
)
def test_wrong_arguments_are_refused(changes, message):
  """Fails if the error comes from inside a loop, or if there is none."""
  arguments = {
    "qk": (2, 5, 3, 4),
    "v": (2, 5, 3, 4),
    "buckets": (2, 3, 1, 5),
    "chunk_size": 2,
  } | changes
  for name, dtype in (
    ("qk", "float32"),
    ("v", "float32"),
    ("buckets", "uint8"),
  ):
    arguments[name] = np.zeros(arguments[name], dtype)
  with pytest.raises(ValueError, match=message) as e:
    lsh_attention(**arguments)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"x": np.ones((1, 2, 1, 3), int)}, "x must be floating-point, got int"),
    ({"num_buckets": 7}, "num_buckets must be even .*, got 7"),
    ({"num_buckets": 2**31}, r"num_buckets must be .* at most 2\^30, got 2147"),
    ({"num_hashes": 0}, "num_hashes must be a positive integer, got 0"),
  ],
  ids=str,
)
def test_wrong_hashes_are_refused(changes, message):
  """Fails if bucket numbers overflow, or if the error comes from inside."""
  arguments = {
    "x": np.ones((1, 2, 1, 3), np.float32),
    "key": jax.random.key(0),
    "num_buckets": 4,
    "num_hashes": 1,
  }
  with pytest.raises(ValueError, match=message):
    lsh_buckets(**arguments | changes)


def test_empty_batch_and_numpy_float64():
  """Fails if the last batch of a dataset fails in a reshape, or warns."""
  arrays = make_inputs(7, batch=0)
  for heads_at_once in (None, 2):
    run = functools.partial(
      by_rounds, chunk_size=3, heads_at_once=heads_at_once
    )
    y, _ = jax.eval_shape(run, *arrays)
    assert (y.shape, y.dtype) == ((0, 7, H, V), "float32")
  y, _ = by_rounds(*arrays, chunk_size=3, heads_at_once=2)
  assert y.shape == (0, 7, H, V)
  assert hashed(arrays[0], jax.random.key(0), 4).shape == (0, H, 2, 7)


def test_second_derivatives(x64):
  """Fails if they fail somewhere inside, or are wrong."""
  qk, v, _, buckets = make_inputs(5)

  def curvature(rounds):
    def loss(v):
      y = lsh_attention(qk, v, buckets, chunk_size=2, rounds=rounds)
      return jnp.sin(y).sum()

    return jax.jit(jax.grad(lambda v: jnp.sum(jax.grad(loss)(v) ** 2)))(v)

  assert np.isfinite(curvature("parallel")).all()
  with pytest.raises(ValueError, match="has first derivatives only; .*paralle"):
    curvature("sequential")
