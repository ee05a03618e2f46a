"""LSH layers: the kernels they call, their streams and their state."""

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import softmax_attention
from slim.kernels.lsh._rounds import to_unit_length
from slim.models import network
from slim.models.mixers import lsh
from slim.models.mixers.lsh import LSHAttention
from slim.models.mixers.mixer import Site
from slim.models.positions import rotate
from tests.helpers import assert_gradients_close
from tests.models.small import KEYS, SIZES, create, params_like, tokens_of


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


def test_lsh_has_no_state():
  """It would generate as if there were no past."""
  model = create(attention="local,lsh", num_layers=2, dtype="float32")
  assert model.init_state(3) is None
  with pytest.raises(ValueError, match="max_tokens must be None for LSH") as e:
    model.init_state(3, max_tokens=5)
  assert "\n" not in str(e.value)
  assert model.rewind is None
