"""Inputs, kinds and the reference for tests of softmax attention."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from slim.kernels import (
  chunked_softmax_attention_and_lse,
  softmax_attention_and_lse,
)
from tests.helpers import assert_gradients_close

TOLERANCES = {"float64": 1e-12, "float32": 2e-6}
KEYS = jax.random.split(jax.random.key(3), 2)
PERIODS = np.array([3, 5])
SIZES = (2, 13, 13, 4, 2, 3, 5)  # B, T, S, H, G, K, V.
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


@functools.lru_cache(maxsize=24)  # All of a grid would need much memory.
def compiled(attend, kind):
  """A function of inputs, a mask and cotangents, compiled once for a shape.

  It returns y, lse and which queries see a key; and the inputs' gradients.
  """

  @jax.jit
  def run(inputs, mask, cts):
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

  return run


def value_and_gradients(attend, kind, inputs, mask, cts, dtype):
  """y and lse, and the gradients of all inputs, compiled."""
  inputs, cts = jax.tree.map(lambda x: jnp.asarray(x, dtype), (inputs, cts))
  return compiled(attend, kind)(inputs, mask, cts)


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


@functools.cache
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
