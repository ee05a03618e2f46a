"""The Reformer and its relatives: gradients, hashes, windows and memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.errors import largest_error
from slim.gradients import make_value_and_grad
from slim.kernels import reversible_scan, softmax_attention
from slim.kernels.lsh_rounds import to_unit_length
from slim.models import create_model, network
from slim.models.block import Block
from slim.models.layers import MLP, Embedding, Logits, dropout
from slim.models.lsh import LSHAttention
from slim.models.positions import rotate
from slim.models.softmax import ATTENTIONS, SoftmaxAttention
from slim.types import Batch, LanguageModel
from tests.helpers import assert_gradients_close

SIZES = {
  "vocab_size": 13,
  "width": 16,
  "num_layers": 2,
  "num_heads": 2,
  "mlp_width": 24,
  "window": 5,
  "bucket_size": 4,
  "max_positions": 21,
}
T = 21
DROPOUT = 0.1
KEYS = jax.random.split(jax.random.key(5), 2)


def create(**settings):
  """A small model in float64, and any parameters, of which none is 0 or 1."""
  defaults = {"constant_key": jax.random.key(7), "dtype": "float64"}
  model = create_model(**SIZES | defaults | settings)
  return model, sample(jax.eval_shape(model.init, jax.random.key(0)))


def sample(shapes):
  """Arrays of these shapes: matrices of gain 1, scales near 1."""
  random = np.random.default_rng(0)

  def one(path, shape):
    x = random.normal(size=shape.shape)
    if path[-1].key == "kernel":
      x /= math.sqrt(shape.shape[0])
    elif path[-1].key == "scale":
      x = 1 + 0.2 * x
    elif path[-1].key == "bias":
      x *= 0.2
    return jnp.asarray(x, shape.dtype)

  return jax.tree_util.tree_map_with_path(one, shapes)


def tokens_of(batch_size, length=T):
  """Tokens [batch_size, length], any."""
  shape = (batch_size, length)
  return np.random.default_rng(0).integers(0, 13, shape, dtype=np.int32)


def batch_of(length=T, batch_size=2):
  """A batch in which each token counts."""
  tokens = tokens_of(batch_size, length + 1)
  ones = np.ones((batch_size, length), np.float32)
  return Batch(tokens[:, :-1], tokens[:, 1:], ones)


def run(model, params, keys=KEYS, length=T, method="full"):
  """The loss and its gradient."""
  value_and_grad = make_value_and_grad(model, method=method)
  compiled = jax.jit(value_and_grad)
  return compiled(params, batch_of(length), keys)


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
  is_reversible,
  norm,
  positions,
  qk_norm=False,
  output_projection=False,
):
  """The network written out: all heads, rounds and tokens at once."""
  dtype = jnp.dtype("float64")
  of_heads = {
    "num_heads": SIZES["num_heads"],
    "qk_norm": qk_norm,
    "rotary": positions == "rotary",
    "output_projection": output_projection,
    "dtype": dtype,
  }
  softmax = SoftmaxAttention(attention="plain", window=None, **of_heads)
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
  names = (attention.split(",") * 2)[:2]
  modules = {"local": local, "lsh": lsh}
  embedding = Embedding(13, SIZES["width"], positions, 21, False, dtype)

  def apply(params, tokens, state, keys, remat):
    del state, remat
    position = jnp.arange(T)

    def fold(site):
      return jax.vmap(jax.random.fold_in, (0, None))(keys, site)

    def drop(x, site):
      return dropout(x, DROPOUT, fold(site), position)

    def add(one, two, y):
      return (two, one + y) if is_reversible else (two + y, two + y)

    x = embedding.apply({"params": params["embedding"]}, tokens, position)
    one = two = drop(x, 0)
    for i, name in enumerate(names):
      mlp = MLP(SIZES["mlp_width"], dtype)
      block = Block(modules.get(name, softmax), mlp, None, norm, dtype)
      block = block.bind({"params": params[f"layer_{i}"]})
      context = fold(1 + 2 * len(names) + i) if name == "lsh" else (None, 0)
      y, *_ = block.attend(two, context, None)
      one, two = add(one, two, drop(y, 1 + 2 * i))
      one, two = add(one, two, drop(block.feed(two), 2 + 2 * i))
    logits = Logits(13, dtype)
    x = (one + two) / 2
    return logits.apply({"params": params["logits"]}, x), None

  return LanguageModel(None, lambda _: None, apply, None, True)


@functools.cache
def plain_gradient(**settings):
  """The loss and gradient to find."""
  _, params = create(
    **{name: x for name, x in settings.items() if name != "is_reversible"}
  )
  with pytest.MonkeyPatch.context() as patch:
    for name, window in (("plain", T), ("local", SIZES["window"])):
      attend = functools.partial(plain_attention, window=window)
      patch.setitem(ATTENTIONS, name, attend)
    return run(plain_model(**settings), params)


@pytest.mark.parametrize(
  "case",
  [
    {"attention": "softmax", "mlp_chunk_size": 5},
    {"attention": "chunked_softmax"},
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
    {
      "attention": "local,lsh",
      "positions": "rotary",
      "heads_at_once": 2,
      "mlp_chunk_size": 5,
      "output_projection": True,
    },
  ],
  ids=lambda case: "-".join(map(str, case.values())),
)
def test_every_saving_leaves_the_gradient_as_it_is(x64, case):
  """What is forgotten, and computed anew, would be something else."""
  case = {"norm": "output", "positions": "axial", "reversible": True} | case
  savings = ("reversible", "mlp_chunk_size", "heads_at_once", "hash_rounds")
  plain = {name: x for name, x in case.items() if name not in savings}
  if plain["attention"] == "chunked_softmax":
    plain["attention"] = "softmax"
  right = plain_gradient(is_reversible=case["reversible"], **plain)
  found = run(*create(dropout=DROPOUT, **case))
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
    return streams, [None] * len(sublayers)

  return apply


@pytest.mark.slow
def test_hashes_are_the_same_on_the_way_back(monkeypatch):
  """Tokens would get gradients of other attention than they had."""
  model, params = create(
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
  # What all features have in common costs the streams ten bits, and LayerNorm
  # takes it off. A vector between two buckets is then not so rare.
  params["embedding"]["table"] += 1000
  replays = []

  def gradient(layers):
    monkeypatch.setattr(network, "reversible", in_scan(layers, replays))
    return run(model, params, length=256)[1]

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


def logits_of(model, params, tokens, keys=None):
  """The logits of whole sequences; the state of nothing is nothing."""
  apply = jax.jit(model.apply)
  logits, state = apply(params, tokens, model.init_state(len(tokens)), keys)
  assert state is None
  return np.asarray(logits)


@pytest.mark.parametrize(
  ("attention", "reach"), [("lsh", T), ("local", SIZES["window"])]
)
def test_a_token_is_seen_by_those_after_it(x64, attention, reach):
  """It would be trained to copy its target, or a window would be wider."""
  model, params = create(
    attention=attention, num_layers=1, positions="axial", bucket_size=T
  )
  one, two = tokens_of(1), tokens_of(1)
  two[:, 6] += 1
  change = np.abs(
    np.diff(logits_of(model, params, np.concatenate([one, two])), axis=0)
  )
  sees = np.arange(T)
  sees = (sees >= 6) & (sees < 6 + reach)
  np.testing.assert_array_equal(change[0].max(-1) > 1e-9, sees)


def test_lsh_of_one_bucket_is_full_attention(x64):
  """It would be off by what no bucket explains: scale, rotation or self."""
  module = LSHAttention(
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
  variables = sample(jax.eval_shape(module.init, KEYS[0], x, KEYS, None))
  apply = jax.jit(module.apply)
  y, state, buckets = apply(variables, x, KEYS, None)
  assert state is None
  assert buckets.shape == (2, 2, 2, 9)
  qk, v = (
    (x @ p["kernel"] + p["bias"][None, None]).reshape(2, 9, 2, 8)
    for p in map(variables["params"].get, ("qk", "v"))
  )
  qk = rotate(qk, jnp.arange(9))
  before = jnp.tri(9, k=-1, dtype=bool)
  # The first token alone sees itself, as it sees nothing else.
  right = softmax_attention(
    qk, to_unit_length(qk), v, mask=before.at[0, 0].set(True)
  )
  assert_gradients_close(y.reshape(right.shape), right, 1e-12)


def test_hashes_are_random_in_training_only(x64):
  """An evaluation would differ each time, or training hash for ever alike."""
  settings = {"attention": "lsh", "num_layers": 1, "num_hashes": 1}
  model, params = create(**settings)
  assert model.is_random
  assert not create(**settings | {"attention": "local"})[0].is_random
  twice = np.repeat(tokens_of(1), 2, 0)

  def distance(model, keys=None):
    """Between the logits of equal sequences, and the logits."""
    logits = logits_of(model, params, twice, keys)
    return np.abs(logits[0] - logits[1]).max(), logits[0]

  apart, evaluated = distance(model)
  assert apart <= 1e-12
  other, _ = create(**settings, constant_key=jax.random.key(8))
  assert np.abs(distance(other)[1] - evaluated).max() > 1e-3
  same_keys = jnp.stack([KEYS[0], KEYS[0]])
  assert distance(model, KEYS)[0] > 1e-3
  assert distance(model, same_keys)[0] <= 1e-12


def test_layers_have_hashes_of_their_own(monkeypatch):
  """Layers would miss the same, or hash by what drops their elements."""
  model, _ = create(attention="lsh", dtype="float32")
  monkeypatch.setattr(
    network.Network,
    "apply",
    lambda self, params, tokens, position, keys, contexts, remat: (
      jax.random.key_data(jnp.stack(contexts)),
      None,
    ),
  )
  for keys in (None, KEYS):
    hashing, _ = model.apply(None, tokens_of(2), None, keys)
    one, two = np.asarray(hashing)
    assert (one != two).any(-1).all()
  for site in range(5):
    folded = jax.vmap(jax.random.fold_in, (0, None))(KEYS, site)
    assert (
      (np.asarray(jax.random.key_data(folded))[None] != hashing).any(-1).all()
    )


@pytest.mark.parametrize("attention", ["local", "softmax,local"])
def test_a_window_token_by_token_is_the_whole(x64, attention):
  """What it generates would not be what it was trained to."""
  model, params = create(attention=attention, positions="rotary")
  tokens = tokens_of(2)
  right = logits_of(model, params, tokens)
  apply = jax.jit(model.apply)
  state = model.init_state(2, max_tokens=T + 3)
  found = []
  for i in range(T):
    logits, state = apply(params, tokens[:, i : i + 1], state)
    found.append(logits)
  assert state.position == T
  assert_gradients_close(np.concatenate(found, 1), right, 1e-12)


def test_lsh_has_no_state():
  """It would generate as if there were no past."""
  model, _ = create(attention="local,lsh", dtype="float32")
  assert model.init_state(3) is None
  with pytest.raises(ValueError, match="max_tokens must be None for LSH") as e:
    model.init_state(3, max_tokens=5)
  assert "\n" not in str(e.value)
  assert model.rewind is None


def test_remat_of_reversible_layers_is_refused():
  """They would be computed three times, to no end."""
  model, params = create(attention="softmax", reversible=True, dtype="float32")
  with pytest.raises(
    ValueError, match="remat must be False for reversible"
  ) as e:
    run(model, params, method="remat")
  assert "\n" not in str(e.value)


@functools.cache
def temporaries(**settings):
  """Bytes of activations of a gradient, compiled, not run."""
  model = create_model(
    vocab_size=256,
    width=128,
    num_heads=4,
    mlp_width=256,
    bucket_size=32,
    constant_key=jax.random.key(0),
    reversible=True,
    positions="sinusoidal",
    **settings,
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  shape = (1, 2048)
  tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
  batch = Batch(tokens, tokens, jax.ShapeDtypeStruct(shape, jnp.float32))
  step = jax.jit(make_value_and_grad(model, method="full"))
  # What LLVM makes of the program does not change what is assigned to it.
  options = {"xla_backend_optimization_level": 0}
  compiled = step.lower(params, batch).compile(options)
  return compiled.memory_analysis().temp_size_in_bytes


LSH = {
  "attention": "lsh",
  "norm": "pre",
  "num_layers": 2,
  "num_hashes": 2,
  "heads_at_once": 2,
  "mlp_chunk_size": 128,
}
STREAM = 2048 * 128 * 4  # Bytes.


@pytest.mark.parametrize("settings", [LSH, {"attention": "softmax"}], ids=str)
def test_memory_does_not_grow_with_the_depth(settings):
  """Something of each layer would be kept, if only its input."""
  few, more = (
    temporaries(**settings | {"num_layers": count}) for count in (2, 3)
  )
  assert more - few <= STREAM / 8, (few, more)


def test_memory_hardly_grows_with_the_rounds():
  """More rounds would be for short sequences."""
  few, many = (temporaries(**LSH | {"num_hashes": count}) for count in (2, 8))
  # The buckets of the tokens, and their places and order while they are needed.
  assert many - few <= 8 * 6 * 4 * 2048, (few, many)
  assert many <= 1.025 * few


def test_memory_is_that_of_the_heads_at_once():
  """All heads would be there at once, or all that is made of a norm."""
  one, two = (temporaries(**LSH | {"heads_at_once": count}) for count in (1, 2))
  assert one <= 0.8 * two, (one, two)
  assert one <= 18.3 * STREAM, one / STREAM
