"""The preset against the paper's model, written a second time and plainly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from slim.models import create_model
from slim.models.positions import sinusoids
from tests.models.small import params_of


def linear(p, x):
  """y = x W + b."""
  return x @ p["kernel"] + p["bias"]


def layer_norm(p, x):
  """LayerNorm with the variance over n, not n - 1."""
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5)
  return x * p["scale"] + p["bias"]


def attend(p, x, num_heads):
  """Squares as features, a sum over the past for each token and head."""
  q, k, v = (linear(p[name], x) for name in "qkv")
  q, k = q**2, k**2
  y = np.zeros_like(x)
  for head in np.split(np.arange(x.shape[1]), num_heads):
    for t in range(len(x)):
      scores = k[: t + 1, head] @ q[t, head]
      y[t, head] = scores @ v[: t + 1, head] / (scores.sum() + 1e-16)
  return linear(p["out"], y) if "out" in p else y


def mlp(p, x):
  """Two layers with the exact GELU between."""
  hidden = linear(p["in"], x)
  hidden = hidden * (1 + special.erf(hidden / np.sqrt(2))) / 2
  return linear(p["out"], hidden)


def position_features(length, width):
  """Sines in the first half, cosines in the second."""
  half = width // 2
  angles = np.arange(length)[:, None] / 10_000 ** (np.arange(half) / half)
  return np.concatenate([np.sin(angles), np.cos(angles)], -1)


def paper_logits(params, tokens, features, num_heads, norm):
  """The logits of one sequence, tokens [T]."""
  add = {
    "output": lambda p, f, x: x + layer_norm(p, f(x)),
    "pre": lambda p, f, x: x + f(layer_norm(p, x)),
    "post": lambda p, f, x: layer_norm(p, x + f(x)),
  }[norm]
  x = np.concatenate([params["embedding"]["table"][tokens], features], -1)
  i = 0
  while f"layer_{i}" in params:
    p = params[f"layer_{i}"]
    x = add(
      p["attention_norm"],
      lambda x, p=p: attend(p["attention"], x, num_heads),
      x,
    )
    x = add(p["mlp_norm"], lambda x, p=p: mlp(p["mlp"], x), x)
    i += 1
  return linear(params["logits"]["out"], x)


@pytest.mark.parametrize(
  "settings",
  [
    {},  # PTB and enwik8.
    {"norm": "pre"},  # Copying.
    {"norm": "post", "output_projection": True},  # Not in the paper.
  ],
  ids=str,
)
def test_model_is_the_papers(x64, settings):
  """Results would not be the paper's."""
  model = create_model(
    vocab_size=256,
    width=128,
    num_layers=2,
    num_heads=2,
    mlp_width=512,
    dtype="float64",
    **settings,
  )
  params = jax.tree.map(np.asarray, params_of(model))
  random = np.random.default_rng(0)
  tokens = random.integers(0, 256, (1, 70), dtype=np.int32)  # Two blocks.
  found, _ = jax.jit(model.apply)(params, tokens, model.init_state(1))
  # The model's position features are float32, which is not the model's error.
  float32 = sinusoids(jnp.arange(70), 64)
  for features, tol in ((position_features(70, 64), 1e-6), (float32, 1e-10)):
    expected = paper_logits(
      params,
      tokens[0],
      np.asarray(features, np.float64),
      num_heads=2,
      norm=settings.get("norm", "output"),
    )
    error = np.linalg.norm(found[0] - expected)
    assert error <= tol * np.linalg.norm(expected)


@pytest.mark.parametrize(
  "width, num_layers, norm, count",
  [
    (1024, 1, "output", 11_940_096),  # I.
    (512, 3, "output", 8_866_048),  # II.
    (1024, 3, "output", 35_033_344),  # III and IV, which differ in length.
    (256, 1, "pre", 822_528),  # Copying.
  ],
)
def test_sizes_are_the_papers(width, num_layers, norm, count):
  """Memory and time would be those of another model."""
  model = create_model(
    vocab_size=256,
    width=width,
    num_layers=num_layers,
    num_heads=width // 64,
    mlp_width=4 * width,
    norm=norm,
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert sum(x.size for x in jax.tree.leaves(params)) == count
