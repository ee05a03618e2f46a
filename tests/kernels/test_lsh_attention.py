"""LSH attention: what softmax is over all pairs that meet in some round."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.errors import largest_error
from slim.kernels import lsh_attention, lsh_buckets, softmax_attention
from slim.kernels.lsh_rounds import to_unit_length
from tests.helpers import assert_gradients_close, pairwise

TOLERANCES = {"float64": 1e-12, "float32": 2e-6}


def make_inputs(length, dtype, num_hashes=3, num_buckets=6, num_heads=3):
  """Shared queries and keys, values, a cotangent of y, and buckets."""
  random = np.random.default_rng(length)
  qk, v, y_ct = (
    jnp.asarray(random.normal(size=(2, length, num_heads, width)), dtype)
    for width in (6, 5, 5)
  )
  buckets = lsh_buckets(
    qk, jax.random.key(1), num_buckets=num_buckets, num_hashes=num_hashes
  )
  return qk, v, y_ct, buckets


def rounds_met(buckets, chunk_size):
  """In how many rounds query i meets key j: [B, H, T, T]."""
  batch, num_heads, num_hashes, length = buckets.shape
  met = np.zeros((batch, num_heads, length, length))
  for b, h, r in np.ndindex(batch, num_heads, num_hashes):
    order = np.argsort(np.asarray(buckets)[b, h, r], kind="stable")
    chunk = np.empty(length, int)
    chunk[order] = np.arange(length) // chunk_size
    met[b, h] += np.isin(chunk[:, None] - chunk, (0, 1))
  met[..., np.arange(length), np.arange(length)] = 0
  return met


def by_pairs(qk, v, buckets, *, chunk_size, is_causal, count_once):
  """The same from the matrix of all pairs."""
  met = rounds_met(buckets, chunk_size)
  if count_once:
    met = np.minimum(met, 1)
  if is_causal:
    met = np.tril(met)
  with np.errstate(divide="ignore"):
    bias = jnp.asarray(np.log(met), qk.dtype)
  y = softmax_attention(qk, to_unit_length(qk), v, bias)
  alone = np.swapaxes(met.sum(-1) == 0, 1, 2)[..., None]
  return jnp.where(alone, v, y)


def value_and_gradients(attend, qk, v, y_ct):
  """y, and the gradients of qk and v."""

  def run(qk, v, y_ct):
    y, vjp = jax.vjp(attend, qk, v)
    return y, vjp(y_ct)

  return jax.jit(run)(qk, v, y_ct)


@pytest.mark.parametrize(
  "case",
  pairwise(
    rounds=["sequential", "parallel"],
    is_causal=[False, True],
    count_once=[False, True],
    # Chunks of one token, a ragged one, one that holds all.
    chunk_size=[1, 4, 20],
    length=[1, 7, 13],
    num_hashes=[1, 3],
    dtype=["float64", "float32"],
  ),
)
def test_rounds_are_softmax_over_the_pairs_that_meet(x64, case):
  """A pair would be left out, or count twice, or its gradient would."""
  qk, v, y_ct, buckets = make_inputs(
    case["length"], case["dtype"], case["num_hashes"]
  )
  meetings = {
    name: case[name] for name in ("chunk_size", "is_causal", "count_once")
  }

  def attend(qk, v):
    return lsh_attention(qk, v, buckets, rounds=case["rounds"], **meetings)

  def of_pairs(qk, v):
    return by_pairs(qk, v, buckets, **meetings)

  found = value_and_gradients(attend, qk, v, y_ct)
  wide = (x.astype("float64") for x in (qk, v, y_ct))
  right = value_and_gradients(of_pairs, *wide)
  assert_gradients_close(found, right, TOLERANCES[case["dtype"]])


def test_a_chunk_of_all_is_full_attention(x64):
  """The hashing would matter where nothing is left out."""
  qk, v, y_ct, buckets = make_inputs(9, "float64")

  def full(qk, v):
    return softmax_attention(
      qk, to_unit_length(qk), v, mask=~jnp.eye(9, dtype=bool)
    )

  def attend(qk, v):
    return lsh_attention(qk, v, buckets, chunk_size=9)

  found, right = (value_and_gradients(x, qk, v, y_ct) for x in (attend, full))
  assert_gradients_close(found, right, 1e-12)


def test_more_rounds_are_nearer_to_full_attention():
  """Pairs that a round misses would be missed by all."""
  clusters, each, width = 32, 32, 64
  length = clusters * each
  random = np.random.default_rng(0)
  centers = random.normal(size=(clusters, width))
  of_token = random.permutation(np.repeat(np.arange(clusters), each))
  noise = 0.1 * random.normal(size=(length, width))
  qk = jnp.asarray((centers[of_token] + noise)[None, :, None], jnp.float32)
  v = jnp.asarray(random.normal(size=(1, length, 1, width)), jnp.float32)
  # Peaked: a query sees its cluster, and of others next to nothing.
  right = softmax_attention(
    qk,
    to_unit_length(qk),
    v,
    mask=~jnp.eye(length, dtype=bool),
    scale=4.0,
  )
  errors = []
  for num_hashes in (1, 4, 16):
    buckets = lsh_buckets(
      qk, jax.random.key(0), num_buckets=2 * clusters, num_hashes=num_hashes
    )
    y = lsh_attention(qk, v, buckets, chunk_size=64, scale=4.0)
    errors.append(largest_error(y, right))
  assert errors[0] > errors[1] > errors[2], errors
  assert errors[2] <= 1e-3, errors


@pytest.mark.parametrize("rounds", ["sequential", "parallel"])
def test_some_heads_at_once_are_all_heads(x64, rounds):
  """A head would get the tokens, or the order, of another."""
  qk, v, y_ct, buckets = make_inputs(9, "float64", num_heads=4)

  def run(heads_at_once):
    return value_and_gradients(
      functools.partial(
        lsh_attention,
        buckets=buckets,
        chunk_size=2,
        is_causal=True,
        rounds=rounds,
        heads_at_once=heads_at_once,
      ),
      qk,
      v,
      y_ct,
    )

  right = run(None)
  for divisor in (1, 2, 4):
    assert_gradients_close(run(divisor), right, 1e-13)


def overhead(num_hashes, rounds="sequential", length=4096):
  """Temporary bytes of a gradient of 8 heads of 64, compiled only."""
  x = jax.ShapeDtypeStruct((1, length, 8, 64), jnp.float32)
  buckets = jax.ShapeDtypeStruct((1, 8, num_hashes, length), jnp.uint8)

  def loss(qk, v, buckets):
    return lsh_attention(
      qk, v, buckets, chunk_size=64, is_causal=True, rounds=rounds
    ).sum()

  lowered = jax.jit(jax.grad(loss, (0, 1))).lower(x, x, buckets)
  return lowered.compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_rounds():
  """It is what sequential rounds are for."""
  few, many = overhead(2), overhead(16)
  # The places of the tokens, and their order while they are sorted.
  assert many - few <= 14 * 8 * 4096 * 13, (few, many)
  assert overhead(4, length=16384) <= 4.1 * overhead(4)


def test_buckets():
  """Rounds or heads would share what is random, or types would be wide."""
  x = jax.random.normal(jax.random.key(0), (2, 400, 3, 8))
  for num_buckets, dtype in ((8, "uint8"), (256, "uint8"), (512, "uint16")):
    buckets = lsh_buckets(
      x, jax.random.key(1), num_buckets=num_buckets, num_hashes=2
    )
    assert buckets.dtype == dtype
    assert buckets.shape == (2, 3, 2, 400)
    assert np.max(buckets).item() < num_buckets
    # Most buckets are fallen into.
    assert len(np.unique(buckets)) > num_buckets / 2
    assert (buckets[:, :, 0] != buckets[:, :, 1]).mean() > 0.7
    opposite = lsh_buckets(
      3 * x, jax.random.key(1), num_buckets=num_buckets, num_hashes=2
    )
    np.testing.assert_array_equal(opposite, buckets)


def test_near_vectors_fall_into_one_bucket():
  """Sorting by buckets would put no two together that matter."""
  x = jax.random.normal(jax.random.key(0), (1, 500, 1, 64))
  near = x + 0.05 * jax.random.normal(jax.random.key(1), x.shape)
  hashed = functools.partial(
    lsh_buckets, key=jax.random.key(2), num_buckets=64, num_hashes=4
  )
  assert (hashed(x) == hashed(near)).mean() > 0.8
  assert (hashed(x) == hashed(-x)).mean() < 0.01


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
  ],
)
def test_wrong_arguments_are_refused(changes, message):
  """The error would come from inside a loop, or none."""
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
    arguments[name] = jnp.zeros(arguments[name], dtype)
  with pytest.raises(ValueError, match=message):
    lsh_attention(**arguments)


def test_second_derivatives(x64):
  """They would fail somewhere inside, or be wrong."""
  qk, v, _, buckets = make_inputs(5, "float64")

  def curvature(rounds):
    def loss(v):
      y = lsh_attention(qk, v, buckets, chunk_size=2, rounds=rounds)
      return jnp.sin(y).sum()

    return jax.grad(lambda v: jnp.sum(jax.grad(loss)(v) ** 2))(v)

  assert np.isfinite(curvature("parallel")).all()
  with pytest.raises(ValueError, match="has first derivatives only; .*paralle"):
    curvature("sequential")
