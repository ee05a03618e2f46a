"""Gated recurrences, caches and windows: chunks, and tokens, are the whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels.chunk_scan.kept_leaves import KeptLeaves
from slim.models import create_model
from slim.models.mixers.softplus_decay import softplus_decay
from slim.settings import SettingError
from slim.training.gradients import make_value_and_grad
from slim.types import Batch
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.models import small

T, C = 7, 3  # The first chunk has one token: less than a convolution.
CACHE = {"window_state": "cache", "window": 3}
MODELS = {
  "gdn,chunked_softmax": {"num_kv_heads": 1, "positions": "rotary"},
  "kda": {"key_dim": 2, "value_dim": 3},
  "ssd,retention,gla,delta": {"conv_width": 2},
  "local,linear": {"window": 3},
  "local,softmax": CACHE | {"reversible": True},
  "gdn,local,kda": {"window": 1, "conv_width": 1, "key_dim": 1},
  "gdn": {"stack_layers": True, "num_layers": 2},
  "gdn,softmax": {"stack_layers": True, "num_layers": 4},
  "linear,gdn": {"stack_layers": True, "num_layers": 4, "mlp_chunk_size": 2},
  "linear,retention": {
    "dropout": 0.1,
    "tied_output": True,
    "final_norm": True,
    "positions": "learned",
    "max_positions": T,
  },
}
# Without qk_norm the sums of these features are kept.
_FAVOR = {"feature_map": "favor", "num_features": 6}
FAVOR = {
  "linear": _FAVOR,
  "linear,linear": _FAVOR | {"reversible": True},
  "linear,softmax": _FAVOR,
}


def create(attention, **settings):
  """Creates a tiny model with a layer of each kind."""
  defaults = {
    "num_layers": attention.count(",") + 1,
    "frozen_key": jax.random.key(1),
  }
  return create_model(
    vocab_size=5,
    width=8,
    num_heads=2,
    attention=attention,
    norm="pre",
    dtype="float64",
    **defaults | settings,
  )


def make_batch(length=T):
  """Two sequences of random tokens."""
  tokens = small.tokens_of(2, length + 1) % 5
  return Batch(tokens[:, :-1], tokens[:, 1:], jnp.ones((2, length)))


def test_a_batch_may_be_empty(x64):
  """Fails if a batch of no sequences raises."""
  model = create("gdn,local", window=1)
  params = jax.eval_shape(model.init, jax.random.key(0))
  none = make_batch().inputs[:0]
  logits, _ = jax.eval_shape(model.apply, params, none, model.init_state(0))
  assert logits.shape == (0, T, 5)


def test_keys_of_other_sequences_are_refused(x64):
  """Fails if all sequences drop the same, or the error is one of an index."""
  model = create("linear", dropout=0.5)
  params = jax.eval_shape(model.init, jax.random.key(0))
  key = jax.random.key(0)
  for keys in (key, key[None]):
    with pytest.raises(ValueError, match=r"keys must be PRNG keys of shape"):
      jax.eval_shape(model.apply, params, make_batch().inputs, None, keys)


@pytest.mark.parametrize(
  ("attention", "chunks"),
  [
    pytest.param(
      name, {}, marks=[] if name == "gdn,chunked_softmax" else pytest.mark.slow
    )
    for name in MODELS | FAVOR
  ]
  + [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
      ("kda", {"policy": "store"}),
      ("local,linear", {"policy": "sqrt"}),
      ("ssd,retention,gla,delta", {"policy": "sqrt"}),
      ("gdn,local,kda", {"policy": "store", "chunk_size": 1}),
    )
  ],
)
def test_chunks_are_the_whole(x64, attention, chunks):
  """Fails if a state or its gradient is wrong."""
  model = create(attention, **(MODELS | FAVOR)[attention])
  args = small.params_of(model), make_batch(), small.KEYS
  full, slim = (
    jax.jit(make_value_and_grad(model, method=method, **chunks))
    for method, chunks in (("full", {}), ("slim", {"chunk_size": C} | chunks))
  )
  assert_gradients_close(slim(*args), full(*args), TOLERANCES["float64"])


@pytest.mark.parametrize(
  "attention",
  [
    pytest.param(name, marks=[] if name == "linear" else [pytest.mark.slow])
    for name in MODELS | FAVOR
  ],
)
def test_rewind_goes_through_the_same_tokens(x64, attention):
  """Fails if a layer undoes a state that is kept, or the reverse."""
  model = create(attention, **(MODELS | FAVOR)[attention])
  params, tokens = small.params_of(model), make_batch().inputs

  @jax.jit
  def run(params, first, later):
    start = model.init_state(2, compensated=True, max_tokens=T)
    _, before = model.apply(params, first, start)
    logits, after = model.apply(params, later, before)
    leaves = KeptLeaves.of(model.kept, before)
    state = leaves.merge(leaves.select(before), leaves.others(after))
    return (logits, after), model.rewind(params, later, state)[1:]

  right, found = run(params, tokens[:, :C], tokens[:, C:])
  assert_gradients_close(found, right, TOLERANCES["float64"])


@pytest.mark.parametrize(
  "attention",
  [
    pytest.param(name, marks=[] if name == "kda" else [pytest.mark.slow])
    for name in MODELS
  ],
)
def test_tokens_one_by_one_are_the_whole(x64, attention):
  """Fails if generation continues from another state."""
  model = create(attention, **MODELS[attention])
  params, batch = small.params_of(model), make_batch()
  right, _ = jax.jit(model.apply)(params, batch.inputs, None)

  @jax.jit
  def by_tokens(params, tokens):
    def token(state, x):
      logits, state = model.apply(params, x[:, None], state)
      return state, logits[:, 0]

    state = model.init_state(2, max_tokens=T)
    return jax.lax.scan(token, state, tokens.T)[1]

  logits = jnp.moveaxis(by_tokens(params, batch.inputs), 0, 1)
  np.testing.assert_allclose(logits, right, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
  ("settings", "policy", "message"),
  [
    ({"attention": "softmax"}, "store", "policy must be 'rewind' for a model"),
    ({"attention": "linear,lsh"}, "rewind", "method must be 'full' or 'remat'"),
  ],
)
def test_chunks_that_cannot_work_are_refused(settings, policy, message):
  """Fails if a cache is stored once a chunk, or LSH attention is cut."""
  model = create(**settings, frozen_key=jax.random.key(0))
  with pytest.raises(ValueError, match=message):
    make_value_and_grad(model, method="slim", chunk_size=C, policy=policy)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"attention": "retention", "key_dim": 3}, "key_dim must be even"),
    ({"attention": "softmax", "num_kv_heads": 3}, "num_kv_heads must divide"),
    ({"attention": "gdn", "conv_width": 0}, "conv_width must be > 0"),
    ({"attention": "gdm"}, "attention must be one of"),
  ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
  """Fails if a wrong setting fails inside, or is ignored."""
  with pytest.raises(SettingError, match=message):
    create(**settings)


def test_a_gate_of_any_size_is_a_number(x64):
  """Fails if a learned scale of a decay overflows to NaN."""
  scales = jnp.array([-100.0, 0.0, 100.0, 1000.0])
  rates = jnp.array([-1000.0, -200.0, 0.0, 200.0])[:, None]
  gradient = jax.value_and_grad(softplus_decay, argnums=(0, 1))
  of_all = jax.vmap(jax.vmap(gradient, (0, None)), (None, 0))
  decay, slope = jax.jit(of_all)(rates[:, 0], scales)
  assert np.isfinite(decay).all() and (decay <= 0).all()
  assert all(np.isfinite(x).all() for x in slope)
