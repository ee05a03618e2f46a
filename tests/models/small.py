"""Small models that tests share, with parameters, tokens and one `jit` each.

A model and its compiled functions are made once for equal settings, as
compiling is what these tests spend their time on. The last few are kept: all
programs of a grid would not fit into memory.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from slim.models import create_model
from slim.training.gradients import make_value_and_grad
from slim.types import Batch, LanguageModel

_share = functools.lru_cache(maxsize=24)

SIZES = {
  "vocab_size": 13,
  "width": 16,
  "num_layers": 1,
  "num_heads": 2,
  "mlp_width": 24,
  "max_positions": 70,
  "window": 5,
  "bucket_size": 4,
}
KEYS = jax.random.split(jax.random.key(5), 2)


@_share
def create(**settings):
  """Creates a model of one layer in float64, unless others are asked for."""
  frozen_key = jax.random.key(settings.pop("frozen_seed", 7))
  defaults = SIZES | {"dtype": "float64", "frozen_key": frozen_key}
  return create_model(**defaults | settings)


def params_of(model):
  """Draws the parameters of a model as `params_like` does."""
  return params_like(jax.eval_shape(model.init, jax.random.key(0)))


def with_params(params):
  """Makes a model that has these parameters and nothing else."""
  return LanguageModel(
    lambda key: params, None, None, None, state_kind="none", is_random=False
  )


def params_like(shapes):
  """Draws parameters without compiling: matrices of gain 1, scales near 1.

  None of them is 0 or 1, as scales and biases of norms are at first.
  """
  random = np.random.default_rng(0)

  def draw(path, shape):
    x = random.normal(size=shape.shape)
    if path[-1].key == "kernel":
      x /= math.sqrt(shape.shape[0])
    elif path[-1].key == "scale":
      x = 1 + 0.2 * x
    elif path[-1].key == "bias":
      x *= 0.2
    return jnp.asarray(x, shape.dtype)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def tokens_of(batch_size, length, seed=0):
  """Draws tokens [batch_size, length]."""
  random = np.random.default_rng(seed)
  shape = (batch_size, length)
  return random.integers(0, SIZES["vocab_size"], shape, dtype=np.int32)


def batch_of(length):
  """Draws a batch of two sequences, some of whose weights are zero."""
  tokens = tokens_of(2, length + 1)
  weights = np.random.default_rng(1).random((2, length), np.float32)
  weights[:, length // 5 : length // 3] = weights[0, :5] = 0
  return Batch(tokens[:, :-1], tokens[:, 1:], weights)


@_share
def apply_of(model):
  """Returns the compiled `apply` of a model."""
  return jax.jit(model.apply)


@_share
def gradient_of(model, **how):
  """Returns the compiled `value_and_grad` of a model."""
  return jax.jit(make_value_and_grad(model, **how))


def temporary_bytes(model, length, compiler_options=(), **how):
  """Bytes of activations of one gradient, compiled and not run."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  weights = jax.ShapeDtypeStruct((1, length), jnp.float32)
  lowered = jax.jit(make_value_and_grad(model, **how)).lower(
    params, Batch(tokens, tokens, weights)
  )
  compiled = lowered.compile(dict(compiler_options))
  return compiled.memory_analysis().temp_size_in_bytes
