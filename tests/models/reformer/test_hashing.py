"""Hashes of the Reformer: random in training, the same on the way back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error
from slim.kernels import reversible_scan
from slim.models import call, network
from slim.models.mixers import lsh
from slim.models.mixers.lsh import LSHAttention
from slim.models.mixers.mixer import Site
from slim.training.gradients import make_value_and_grad
from tests.helpers import assert_gradients_close
from tests.models.small import (
  KEYS,
  apply_of,
  batch_of,
  create,
  params_of,
  tokens_of,
)

T = 21


def in_scan(layers, replays):
  """Makes a `reversible` for equal layers, of one that gets them stacked.

  `layers(sublayers, params, streams, contexts)` is given the sublayers of one
  layer, and the rest with an axis of layers, as `reversible_scan` is. What is
  replayed to attention is appended to `replays`, by its shape.
  """

  def apply(sublayers, params, streams, contexts):
    shapes = jax.eval_shape(
      sublayers[0], params[0], streams[0], contexts[0], None
    )
    replays.append(shapes[2])
    params, contexts = (
      [
        jax.tree.map(lambda *xs: jnp.stack(xs), *tree[half::2])
        for half in range(2)
      ]
      for tree in (params, contexts)
    )
    streams, _ = layers(sublayers[:2], params, streams, contexts)
    return streams, [((), ())] * len(sublayers)

  return apply


@pytest.mark.slow
def test_hashes_are_the_same_on_the_way_back(monkeypatch):
  """Tokens would get gradients of other attention than they had."""
  model = create(
    attention="lsh",
    num_layers=12,
    width=64,
    num_heads=4,
    num_hashes=4,
    positions="sinusoidal",
    norm="pre",
    reversible=True,
    dtype="float32",
  )
  params = params_of(model)
  # What all features have in common costs the streams ten bits, and LayerNorm
  # takes it off. A vector between two buckets is then not so rare.
  params["embedding"]["table"] += 1000
  replays = []

  def gradient(layers):
    monkeypatch.setattr(network, "reversible", in_scan(layers, replays))
    gradient = jax.jit(make_value_and_grad(model, method="full"))
    return gradient(params, batch_of(256), KEYS)[1]

  def plainly(sublayers, params, streams, contexts):
    def layer(streams, of_layer):
      one, two = streams
      for f, its_params, context in zip(sublayers, *of_layer, strict=True):
        one, two = two, one + f(its_params, two, context, None)[0]
      return (one, two), None

    return jax.lax.scan(layer, streams, (params, contexts))

  def hashed_anew(sublayers, *args):
    attend, feed = sublayers

    def forgetful(params, x, context, replay):
      del replay
      return attend(params, x, context, None)

    return reversible_scan([forgetful, feed], *args)

  right = gradient(plainly)
  kept, anew = (
    largest_error(gradient(layers), right)
    for layers in (reversible_scan, hashed_anew)
  )
  assert kept <= 2e-4
  assert anew > 20 * kept, (anew, kept)
  # 64 buckets, for two sequences of 256 tokens.
  assert replays[0].dtype == "uint8"
  assert replays[0].shape == (2, 4, 4, 256)


def test_hashes_are_random_in_training_only(x64):
  """An evaluation would differ each time, or training hash for ever alike."""
  settings = {"attention": "lsh", "num_hashes": 1}
  model = create(**settings)
  assert model.is_random
  assert not create(attention="local").is_random
  params, twice = params_of(model), np.repeat(tokens_of(1, T), 2, 0)

  def distance(model, keys=None):
    """Between the logits of equal sequences, and the logits."""
    logits = np.asarray(apply_of(model)(params, twice, None, keys)[0])
    return np.abs(logits[0] - logits[1]).max(), logits[0]

  apart, evaluated = distance(model)
  assert apart <= 1e-12
  other = create(**settings, frozen_seed=8)
  assert np.abs(distance(other)[1] - evaluated).max() > 1e-3
  same_keys = jnp.stack([KEYS[0], KEYS[0]])
  apart, of_keys = distance(model, KEYS)
  assert apart > 1e-3
  apart, of_same_keys = distance(model, same_keys)
  assert apart <= 1e-12
  # The second key is that of the second sequence alone.
  assert_gradients_close(of_keys, of_same_keys, 1e-12)


def test_known_buckets_are_not_hashed_anew(monkeypatch):
  """Rounding would give tokens gradients of other attention than they had."""
  monkeypatch.setattr(lsh, "lsh_buckets", None)
  module = LSHAttention(
    width=16,
    num_heads=2,
    bucket_size=4,
    num_hashes=2,
    hash_rounds="sequential",
    heads_at_once=None,
    qk_norm=False,
    rotary=False,
    output_projection=False,
    dtype=jnp.dtype("float32"),
  )
  x, buckets = jnp.zeros((2, 8, 16)), jnp.zeros((2, 2, 2, 8), jnp.uint8)
  site = Site(jnp.int32(0), None, KEYS, False, buckets)
  mixed, _ = jax.eval_shape(
    lambda key: module.init_with_output(key, x, None, site), KEYS[0]
  )
  found = mixed.replay
  assert (found.shape, found.dtype) == (buckets.shape, buckets.dtype)


def test_layers_have_hashes_of_their_own(monkeypatch):
  """Layers would miss the same, or hash by what drops their elements."""
  model = create(attention="lsh", num_layers=2, dtype="float32")
  params = params_of(model)
  found = []

  def record(position, constants, keys, *others):
    found.append(jnp.broadcast_to(constants, 2) if keys is None else keys)
    return Site(position, constants, keys, *others)

  monkeypatch.setattr(call, "Site", record)
  for keys in (None, KEYS):
    found.clear()

    def hash_keys(keys=keys):
      model.apply(params, tokens_of(2, T), None, keys)
      return jax.random.key_data(jnp.stack(found))

    one, two = hashing = np.asarray(jax.jit(hash_keys)())
    assert (one != two).any(-1).all()
  for site in range(5):
    folded = jax.vmap(jax.random.fold_in, (0, None))(KEYS, site)
    assert (
      (np.asarray(jax.random.key_data(folded))[None] != hashing).any(-1).all()
    )
