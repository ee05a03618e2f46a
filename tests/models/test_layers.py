"""The parts that all models share, against plain formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from slim.models import activations, layers, norms
from tests.helpers import assert_gradients_close

sinusoids = jax.jit(layers.sinusoids, static_argnums=1)


def test_sinusoids_keep_their_bound():
  """Without it the features of tokens far into a book would be noise."""
  random = np.random.default_rng(0)
  positions = np.concatenate(
    [[0, 1, 63, 64, 10_000, 2**20 - 1, 2**20], random.integers(0, 2**20, 500)]
  )
  frequencies = 10_000.0 ** (-np.arange(32) / 32)
  angles = positions[:, None] * frequencies
  expected = np.concatenate([np.sin(angles), np.cos(angles)], -1)
  found = sinusoids(jnp.asarray(positions, jnp.int32), 64)
  assert found.dtype == jnp.float32
  # The bound of the docstring, and float32 rounding of an angle up to pi.
  bound = 7.3e-10 * positions[:, None] + 6e-7
  excess = np.abs(np.asarray(found, np.float64) - expected) - bound
  assert excess.max() <= 0


def derivatives(derivative, f):
  """Returns f with its first and second derivatives as one program."""
  fs = f, derivative(f), derivative(derivative(f))
  return jax.jit(jax.vmap(lambda x: tuple(g(x) for g in fs)))


@pytest.mark.parametrize("derivative", [jax.grad, jax.jacfwd])
@pytest.mark.parametrize(
  ("mine", "right"),
  [
    (activations.gelu, lambda x: jax.nn.gelu(x, approximate=False)),
    (activations.silu, jax.nn.silu),
  ],
  ids=["gelu", "silu"],
)
def test_activation_functions_are_exact(x64, derivative, mine, right):
  """A wrong hand-written derivative would train another function."""
  x = jnp.concatenate([jnp.linspace(-8, 8, 1001), jnp.array([-30.0, 30.0])])
  mine, right = (derivatives(derivative, f)(x) for f in (mine, right))
  for a, b in zip(mine, right, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("derivative", [jax.jacrev, jax.jacfwd])
def test_layer_norm_is_exact(x64, derivative):
  """Its hand-written derivative would train another function."""
  norm = nn.LayerNorm(
    epsilon=1e-5,
    use_scale=False,
    use_bias=False,
    use_fast_variance=False,
    dtype=jnp.float64,
  )
  random = np.random.default_rng(0)
  # One row so flat that the 1e-5 counts, one far from zero.
  x = jnp.asarray(
    [
      shift + scale * random.normal(size=16)
      for scale, shift in ((1.0, 0.0), (1e-3, 0.0), (1.0, 1e3))
    ]
  )
  mine, right = (
    derivatives(derivative, f)(x)
    for f in (norms.standardise, lambda x: norm.apply({}, x))
  )
  for a, b in zip(mine, right, strict=True):
    for row in range(3):
      assert_gradients_close(a[row], b[row], 1e-11)


def keys_of(*seeds, impl=None):
  """One PRNG key a sequence."""
  return jnp.stack([jax.random.key(seed, impl=impl) for seed in seeds])


drop = jax.jit(layers.dropout, static_argnums=1)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_dropout_does_not_see_the_cut(impl):
  """Each chunk size would train with other masks."""

  @jax.jit
  def run(x, keys, positions):
    cut = [
      layers.dropout(piece, 0.5, keys, places)
      for piece, places in zip(
        jnp.split(x, [1, 2, 7], 1),
        jnp.split(positions, [1, 2, 7]),
        strict=True,
      )
    ]
    return (
      layers.dropout(x, 0.5, keys, positions),
      jnp.concatenate(cut, 1),
      layers.dropout(x[1:], 0.5, keys[1:], positions),
    )

  keys, x = keys_of(1, 2, impl=impl), jnp.ones((2, 12, 16))
  whole, cut, row = run(x, keys, 100 + np.arange(12))
  np.testing.assert_array_equal(cut, whole)
  np.testing.assert_array_equal(row, whole[1:])


def test_dropout_differs_by_key_and_position():
  """All tokens, or all sequences of a batch, would lose the same elements."""
  x, positions = jnp.ones((3, 4, 64)), jnp.arange(4)
  found = drop(x, 0.5, keys_of(1, 2, 1), positions)
  np.testing.assert_array_equal(found[0], found[2])
  rows = np.asarray(found[:2]).reshape(8, 64)
  assert len({row.tobytes() for row in rows}) == 8


def test_dropout_keeps_its_rate_and_the_expectation():
  """Evaluation, without dropout, would see activations of another scale."""
  x = jnp.full((8, 64, 128), 3.0)
  keys = jax.random.split(jax.random.key(0), 8)
  found = np.asarray(drop(x, 0.1, keys, jnp.arange(64)))
  dropped = found == 0
  five_sigma = 5 * np.sqrt(0.1 * 0.9 / x.size)
  assert abs(dropped.mean() - 0.1) < five_sigma
  np.testing.assert_allclose(found[~dropped], 3 / 0.9, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dropout_keeps_the_same_in_any_precision(x64, dtype):
  """A run in bfloat16, or one that checks it in float64, would drop others."""
  keys, positions = keys_of(1, 2), jnp.arange(12)
  x = jnp.ones((2, 12, 16), dtype)
  found = drop(x, np.float32(0.5), keys, positions)
  assert found.dtype == dtype
  with jax.enable_x64(False):
    right = drop(jnp.ones(x.shape), 0.5, keys, jnp.arange(12))
  np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("rate, keys", [(0.5, None), (0.0, keys_of(1, 2))])
def test_no_dropout_is_the_identity(rate, keys):
  """Evaluation would drop, or a rate of zero would cost time."""
  x = jax.random.normal(jax.random.key(0), (2, 3, 8))
  assert layers.dropout(x, rate, keys, jnp.arange(3)) is x


def test_dense_layers_are_initialised_as_in_pytorch():
  """The paper's learning rates would meet other weights."""
  mlp = layers.MLP(hidden_dim=2048, dtype=jnp.float32)
  init = jax.jit(mlp.init)
  params = init(jax.random.key(0), jnp.zeros((1, 1, 1024)))["params"]
  for name, fan_in in (("in", 1024), ("out", 2048)):
    for values in params[name].values():
      # Of n draws from U(-1, 1) the mean is off by 1/√(3n), and the mean
      # square, 1/3, by √(4/45n).
      scaled = np.asarray(values, np.float64) * np.sqrt(fan_in)
      assert 0.99 < np.abs(scaled).max() <= 1 + 1e-6
      assert abs(scaled.mean()) < 5 / np.sqrt(3 * scaled.size)
      error = np.square(scaled).mean() - 1 / 3
      assert abs(error) < 5 * np.sqrt(4 / (45 * scaled.size))


def embed(positions="sinusoidal", dim=8, count=1, *, scaled=False, vocab=3):
  """Makes an embedding, and a compiled function that samples its parameters."""
  module = layers.Embedding(
    vocab_size=vocab,
    width=dim,
    positions=positions,
    max_positions=count,
    scaled=scaled,
    dtype=jnp.float32,
  )
  tokens, first = jnp.zeros((1, 1), jnp.int32), jnp.arange(1)
  init = jax.jit(lambda key: module.init(key, tokens, first)["params"])
  return module, init(jax.random.key(0))


@pytest.mark.parametrize("scaled", [False, True])
def test_embedding_is_initialised_as_in_pytorch(scaled):
  """Tokens would be too faint, or too loud, beside their positions."""
  positions = "sinusoidal" if scaled else "concatenated"
  module, params = embed(positions, 512, scaled=scaled, vocab=256)
  table = np.asarray(params["table"], np.float64)
  assert table.shape == (256, 512 if scaled else 256)
  if scaled:
    # A row has length 1, as an output layer needs it, and enters √D times.
    table *= 512**0.5
    apply = jax.jit(module.apply)
    x = apply({"params": params}, jnp.array([[3]]), jnp.array([0]))
    sinusoid = sinusoids(jnp.array([0]), 512)
    np.testing.assert_allclose(x[0] - sinusoid, table[3:4], rtol=1e-4)
  # The same for N(0, 1): 1/√n, and √(2/n) for the mean square.
  assert abs(table.mean()) < 5 / np.sqrt(table.size)
  assert abs(np.square(table).mean() - 1) < 5 * np.sqrt(2 / table.size)


@pytest.mark.parametrize("count", [1, 7, 12, 16])
def test_axial_positions_are_a_table_of_pairs(count):
  """Two positions would be one, or some without a vector."""
  module, params = embed("axial", count=count)
  rows, columns = (np.asarray(params[name]) for name in ("rows", "columns"))
  table = np.array([[*row, *column] for row in rows for column in columns])
  # As few rows and columns as can be, in a grid that is nearly a square.
  assert count <= len(table) < count + len(columns)
  assert 0 <= len(columns) - len(rows) <= 1
  assert (len(columns) - 1) ** 2 < count
  tokens, apply = jnp.zeros((1, 40), jnp.int32), jax.jit(module.apply)
  # Across the end of a row, as a chunk of a longer sequence may lie.
  for start in (0, 3):
    x = apply({"params": params}, tokens, start + np.arange(40))
    found = np.asarray(x)[0] - np.asarray(params["table"])[0]
    within = max(0, len(table) - start)
    np.testing.assert_allclose(found[:within], table[start:], atol=1e-6)
    # The row that max_positions ends in is whole; what is behind it is none.
    assert np.isnan(found[within:, :4]).all()
  assert len(np.unique(table, axis=0)) == len(table)


def test_tokens_outside_the_vocabulary_are_seen():
  """Fails if they are taken for others, without a word."""
  module, params = embed("sinusoidal", count=7)
  size = params["table"].shape[0]
  tokens = jnp.array([[-1, 0, size - 1, size]], jnp.int32)
  x = jax.jit(module.apply)({"params": params}, tokens, jnp.arange(4))
  assert np.isnan(x).all(-1).tolist() == [[True, False, False, True]]


def test_learned_positions_end():
  """Further ones would be the last one's, without a word."""
  module, params = embed("learned", count=7)
  x = jax.jit(module.apply)(
    {"params": params}, jnp.zeros((1, 4), jnp.int32), jnp.r_[5:9]
  )
  token, positions = (np.asarray(params[x]) for x in ("table", "positions"))
  right = token[0] + positions[5:]
  np.testing.assert_allclose(x[0, :2], right, rtol=1e-6)
  assert np.isnan(x[0, 2:]).all()
