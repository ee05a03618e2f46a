"""LSH attention: softmax over all pairs that meet in some round."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error
from slim.kernels import lsh_attention, lsh_buckets
from tests.helpers import assert_gradients_close, pairwise
from tests.kernels.lsh.cases import SCALE, by_rounds, make_inputs

TOLERANCES = {"float64": 1e-12, "float32": 2e-6}


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
  found = jax.device_get(
    jax.vmap(lambda scale: run(scale=scale, **settings))(scales)
  )
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


def test_second_derivatives(x64):
  """Fails if they fail somewhere inside, or are wrong."""
  qk, v, _, buckets = make_inputs(5)

  def squared_gradient(rounds):
    def loss(v):
      y = lsh_attention(qk, v, buckets, chunk_size=2, rounds=rounds)
      return jnp.sin(y).sum()

    return jax.jit(lambda v: jnp.sum(jax.grad(loss)(v) ** 2))

  f = squared_gradient("parallel")
  along, h = np.cos(np.arange(v.size)).reshape(v.shape), 1e-5
  slope = (f(v + h * along) - f(v - h * along)) / (2 * h)
  found = (jax.jit(jax.grad(f))(v) * along).sum()
  np.testing.assert_allclose(found, slope, rtol=1e-7)
  with pytest.raises(ValueError, match="has first derivatives only; .*paralle"):
    jax.grad(squared_gradient("sequential"))(v)
