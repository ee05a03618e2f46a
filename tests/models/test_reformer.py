"""The Reformer and its relatives: gradients, hashes, windows and memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error
from slim.kernels import reversible_scan, softmax_attention
from slim.kernels.lsh._rounds import to_unit_length
from slim.models import (
  create_model,
  network,
)
from slim.models.block import Block
from slim.models.layers import MLP, Embedding, Logits, dropout
from slim.models.mixers import lsh
from slim.models.mixers.lsh import LSHAttention
from slim.models.mixers.mixer import Site
from slim.models.mixers.softmax import (
  ATTENTIONS,
  SoftmaxAttention,
)
from slim.models.positions import rotate
from slim.training.gradients import make_value_and_grad
from slim.types import LanguageModel
from tests.helpers import AS_USERS, assert_gradients_close
from tests.models.small import (
  KEYS,
  SIZES,
  apply_of,
  batch_of,
  create,
  gradient_of,
  params_like,
  params_of,
  temporary_bytes,
  tokens_of,
)

T = 21


def plain_attention(q, k, v, *, window, **_):
  """Causal softmax of all pairs within a window, differentiated plainly."""
  length = q.shape[1]
  seen = np.tri(length, dtype=bool) & ~np.tri(length, k=-window, dtype=bool)
  scores = jnp.einsum("bihk,bjhk->bhij", q, k) / math.sqrt(q.shape[-1])
  p = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf), -1)
  return jnp.einsum("bhij,bjhv->bihv", p, v)


def plain_model(
  *,
  attention,
  num_layers,
  is_reversible,
  norm,
  positions,
  drop_rate,
  qk_norm=False,
  output_projection=False,
):
  """The network written out: all heads, rounds and tokens at once."""
  dtype = jnp.dtype("float64")
  of_heads = {
    "width": SIZES["width"],
    "num_heads": SIZES["num_heads"],
    "qk_norm": qk_norm,
    "rotary": positions == "rotary",
    "output_projection": output_projection,
    "dtype": dtype,
  }
  softmax = SoftmaxAttention(attention="plain", window=1, **of_heads)
  local = SoftmaxAttention(
    attention="local", window=SIZES["window"], **of_heads
  )
  lsh = LSHAttention(
    bucket_size=SIZES["bucket_size"],
    num_hashes=2,
    hash_rounds="parallel",
    heads_at_once=None,
    **of_heads,
  )
  names = (attention.split(",") * num_layers)[:num_layers]
  modules = {"local": local, "lsh": lsh}
  vocab_size, width = SIZES["vocab_size"], SIZES["width"]
  embedding = Embedding(
    vocab_size, width, positions, SIZES["max_positions"], False, dtype
  )

  def apply(params, tokens, state, keys, remat):
    del state, remat
    position = jnp.arange(T)

    def fold(site):
      return jax.vmap(jax.random.fold_in, (0, None))(keys, site)

    def drop(x, site):
      return dropout(x, drop_rate, fold(site), position)

    def add(one, two, y):
      return (two, one + y) if is_reversible else (two + y, two + y)

    x = embedding.apply({"params": params["embedding"]}, tokens, position)
    one = two = drop(x, 0)
    for i, name in enumerate(names):
      mlp = MLP(SIZES["mlp_width"], dtype)
      block = Block(modules.get(name, softmax), mlp, None, norm, dtype)
      block = block.bind({"params": params[f"layer_{i}"]})
      hash_keys = fold(1 + 2 * len(names) + i) if name == "lsh" else None
      site = Site(0, None, hash_keys, False, None)
      y = block.mix(two, None, site).y
      one, two = add(one, two, drop(y, 1 + 2 * i))
      one, two = add(one, two, drop(block.feed(two), 2 + 2 * i))
    logits = Logits(vocab_size, dtype)
    x = (one + two) / 2
    return logits.apply({"params": params["logits"]}, x), None

  return LanguageModel(None, lambda _: None, apply, None, "none", True)


def plain_gradient(params, **settings):
  """The loss and gradient to find."""
  with pytest.MonkeyPatch.context() as patch:
    for name, window in (("plain", T), ("local", SIZES["window"])):
      attend = functools.partial(plain_attention, window=window)
      patch.setitem(ATTENTIONS, name, attend)
    gradient = gradient_of(plain_model(**settings), method="full")
    return gradient(params, batch_of(T), KEYS)


SAVINGS = ("reversible", "mlp_chunk_size", "heads_at_once", "hash_rounds")
SLOW_SAVINGS = [
  {"attention": "softmax", "mlp_chunk_size": 5},
  {"attention": "local", "norm": "pre", "mlp_chunk_size": 8},
  {"attention": "local", "reversible": False, "mlp_chunk_size": 5},
  {
    "attention": "lsh",
    "reversible": False,
    "heads_at_once": 1,
    "positions": "rotary",
    "qk_norm": True,
  },
  {"attention": "lsh", "norm": "pre", "heads_at_once": 1},
  {
    "attention": "lsh",
    "norm": "pre",
    "hash_rounds": "parallel",
    "mlp_chunk_size": 5,
  },
]


@pytest.mark.parametrize(
  "case",
  [
    {
      "attention": "local,lsh",
      "num_layers": 2,
      "positions": "rotary",
      "heads_at_once": 1,
      "mlp_chunk_size": 5,
      "output_projection": True,
      "dropout": 0.1,
    },
    {
      "attention": "lsh",
      "reversible": False,
      "hash_rounds": "parallel",
      "norm": "pre",
      "mlp_chunk_size": 8,
      "qk_norm": True,
      "dropout": 0.1,
    },
    {"attention": "chunked_softmax", "norm": "pre", "positions": "learned"},
    *(
      pytest.param(
        {"num_layers": 2, "dropout": 0.1} | case, marks=pytest.mark.slow
      )
      for case in SLOW_SAVINGS
    ),
  ],
  ids=lambda case: "-".join(map(str, case.values())),
)
def test_every_saving_leaves_the_gradient_as_it_is(x64, case):
  """What is forgotten, and computed anew, would be something else."""
  defaults = {
    "num_layers": 1,
    "norm": "output",
    "positions": "axial",
    "reversible": True,
    "dropout": 0.0,
  }
  case = defaults | case
  plain = {name: x for name, x in case.items() if name not in SAVINGS}
  plain["drop_rate"] = plain.pop("dropout")
  model = create(**case)
  params = params_of(model)
  found = gradient_of(model, method="full")(params, batch_of(T), KEYS)
  right = plain_gradient(params, is_reversible=case["reversible"], **plain)
  assert_gradients_close(found, right, 1e-10)


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


def test_lsh_of_one_bucket_is_full_attention(x64):
  """It would be off by what no bucket explains: scale, rotation or self."""
  module = LSHAttention(
    width=16,
    num_heads=2,
    bucket_size=9,
    num_hashes=2,
    hash_rounds="sequential",
    heads_at_once=1,
    qk_norm=False,
    rotary=True,
    output_projection=False,
    dtype=jnp.dtype("float64"),
  )
  x = jax.random.normal(jax.random.key(0), (2, 9, 16))
  site = Site(jnp.int32(0), None, KEYS, False, None)
  variables = params_like(
    jax.eval_shape(lambda key: module.init(key, x, None, site), KEYS[0])
  )
  mixed = jax.jit(lambda x: module.apply(variables, x, None, site))(x)
  assert mixed.after is None
  assert mixed.replay.shape == (2, 2, 2, 9)

  @jax.jit
  def attend_to_all(params, x):
    qk, v = (
      (x @ p["kernel"] + p["bias"][None, None]).reshape(2, 9, 2, 8)
      for p in (params["qk"], params["v"])
    )
    qk = rotate(qk, jnp.arange(9))
    # The first token alone sees itself, as it sees nothing else.
    mask = jnp.tri(9, k=-1, dtype=bool).at[0, 0].set(True)
    return softmax_attention(qk, to_unit_length(qk), v, mask=mask)

  right = attend_to_all(variables["params"], x)
  assert_gradients_close(mixed.y.reshape(right.shape), right, 1e-12)


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


def test_settings_reach_the_kernels(monkeypatch):
  """What only costs less memory would be set in vain."""
  calls = []

  def record(name):
    kernel = getattr(lsh, name)

    def recorded(*args, **settings):
      calls.append(settings)
      return kernel(*args, **settings)

    monkeypatch.setattr(lsh, name, recorded)

  record("lsh_buckets")
  record("lsh_attention")
  settings = {"bucket_size": 4, "num_hashes": 3}
  of_kernel = {"hash_rounds": "parallel", "heads_at_once": 1}
  model = create(
    attention="lsh", qk_norm=True, dtype="float32", **settings, **of_kernel
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  # The factors of queries, which are also keys, are learned.
  norm = params["layer_0"]["attention"]["qk_norm"]
  assert norm["scale"].shape == (SIZES["width"] // SIZES["num_heads"],)
  calls.clear()
  jax.eval_shape(model.apply, params, tokens_of(1, 64), None)
  hashing, attending = calls
  assert hashing == {"num_buckets": 64 // 4, "num_hashes": 3}
  assert attending == {
    "chunk_size": 4,
    "is_causal": True,
    "rounds": "parallel",
    "heads_at_once": 1,
  }


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


def test_streams_are_wide(monkeypatch):
  """What is undone in bfloat16 would be something else."""
  found = []

  def record(sublayers, params, streams, contexts):
    found.extend(x.dtype for x in streams)
    return streams, [((), ())] * len(sublayers)

  monkeypatch.setattr(network, "reversible", record)
  model = create(attention="softmax", reversible=True, dtype="bfloat16")
  params = jax.eval_shape(model.init, jax.random.key(0))
  jax.eval_shape(model.apply, params, tokens_of(1, 5), None)
  assert found == [jnp.float32, jnp.float32]


def test_layers_have_hashes_of_their_own(monkeypatch):
  """Layers would miss the same, or hash by what drops their elements."""
  model = create(attention="lsh", num_layers=2, dtype="float32")
  params = params_of(model)
  found = []

  def record(position, constants, keys, *others):
    found.append(jnp.broadcast_to(constants, 2) if keys is None else keys)
    return Site(position, constants, keys, *others)

  monkeypatch.setattr(network, "Site", record)
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


def test_lsh_has_no_state():
  """It would generate as if there were no past."""
  model = create(attention="local,lsh", num_layers=2, dtype="float32")
  assert model.init_state(3) is None
  with pytest.raises(ValueError, match="max_tokens must be None for LSH") as e:
    model.init_state(3, max_tokens=5)
  assert "\n" not in str(e.value)
  assert model.rewind is None


LSH = {
  "attention": "lsh",
  "norm": "pre",
  "num_layers": 2,
  "num_hashes": 2,
  "heads_at_once": 2,
  "mlp_chunk_size": 128,
  "reversible": True,
}
STREAM = 2048 * 128 * 4  # Bytes.


@functools.cache
def activations(compiler_options=(), **settings):
  """Bytes of activations of 2048 tokens of width 128."""
  model = create_model(
    vocab_size=256,
    width=128,
    num_heads=4,
    mlp_width=256,
    bucket_size=32,
    frozen_key=jax.random.key(0),
    positions="sinusoidal",
    **settings,
  )
  return temporary_bytes(model, 2048, compiler_options, method="full")


def activations_as_users(**settings):
  """The same of the program that users get."""
  return activations(tuple(AS_USERS.items()), **settings)


def test_memory_of_a_reformer():
  """All heads would be there at once, or something of each layer."""
  # Two heads at once take 23 streams, and a layer keeps at least its input.
  assert activations(**LSH | {"heads_at_once": 1}) <= 18.3 * STREAM


@pytest.mark.parametrize("attention", ["chunked_softmax", "local"])
def test_memory_of_blocks(attention):
  """All pairs of tokens would be there: 64 streams of probabilities."""
  found = activations(attention=attention, num_layers=1, window=64)
  assert found <= 32 * STREAM


@pytest.mark.slow
@pytest.mark.parametrize(
  "settings", [LSH, {"attention": "softmax", "reversible": True}], ids=str
)
def test_memory_does_not_grow_with_the_depth(settings):
  """Something of each layer would be kept, if only its input."""
  few, more = (
    activations_as_users(**settings | {"num_layers": count}) for count in (2, 3)
  )
  assert more - few <= STREAM / 8, (few, more)


@pytest.mark.slow
def test_memory_hardly_grows_with_the_rounds():
  """More rounds would be for short sequences."""
  few, many = (
    activations_as_users(**LSH | {"num_hashes": count}) for count in (2, 8)
  )
  # The buckets of the tokens, and their places and order while they are needed.
  assert many - few <= 8 * 6 * 4 * 2048, (few, many)
  assert many <= 1.025 * few


@pytest.mark.slow
def test_memory_is_that_of_the_heads_at_once():
  """All heads would be there at once, or all that is made of a norm."""
  one, two = (
    activations_as_users(**LSH | {"heads_at_once": count}) for count in (1, 2)
  )
  assert one <= 0.8 * two, (one, two)
  assert one <= 18.3 * STREAM, one / STREAM
