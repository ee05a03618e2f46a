"""Adam against its definition, and the schedules at their corners."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.models import stacking
from slim.settings import SettingError
from slim.training.optimizers import (
  OptimizerSettings,
  create_optimizer,
  make_schedule,
)

PARAMS = {"bias": jnp.array([1.0, -2.0]), "matrix": jnp.array([[3.0, 0.5]])}
GRADIENTS = {"bias": jnp.array([0.3, 40.0]), "matrix": jnp.array([[-2.0, 0.0]])}


def updates(num_steps=3, **settings):
  """Returns the updates for the same gradients at each of some steps."""
  optimizer = create_optimizer(OptimizerSettings(**settings), num_steps)

  def run(params, gradients):
    state, results = optimizer.init(params), []
    for _ in range(num_steps):
      update, state = optimizer.update(gradients, state, params)
      results.append(update)
    return results

  return jax.jit(run)(PARAMS, GRADIENTS)


def test_adam_follows_its_definition():
  """Fails if the optimizer is not the paper's."""
  gradient = np.asarray(GRADIENTS["bias"], np.float64)
  m = v = 0.0
  for step, update in enumerate(updates(learning_rate=0.01), 1):
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    m_hat, v_hat = m / (1 - 0.9**step), v / (1 - 0.999**step)
    expected = -0.01 * m_hat / (np.sqrt(v_hat) + 1e-8)
    np.testing.assert_allclose(update["bias"], expected, rtol=1e-4)


def test_weight_decay_is_decoupled_and_spares_vectors():
  """Fails if biases decay, or Adam rescales the decay."""
  plain = updates(learning_rate=0.01)[0]
  decayed = updates(name="adamw", learning_rate=0.01, weight_decay=0.1)[0]
  np.testing.assert_allclose(decayed["bias"], plain["bias"], rtol=1e-6)
  expected = plain["matrix"] - 0.01 * 0.1 * PARAMS["matrix"]
  np.testing.assert_allclose(decayed["matrix"], expected, rtol=1e-6)


def test_clipping_scales_all_parameters_together():
  """Fails if one large gradient still disturbs the run."""
  norm = math.sqrt(sum(float((x**2).sum()) for x in GRADIENTS.values()))
  # Only with a large epsilon does Adam see the scale of its gradients.
  settings = dict(learning_rate=1.0, epsilon=1e6)
  plain = updates(**settings)[0]
  clipped = updates(**settings, clip_norm=0.5)[0]
  expected = jax.tree.map(lambda x: x * 0.5 / norm, plain)
  chex.assert_trees_all_close(clipped, expected, rtol=1e-3)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    (dict(schedule="constant"), {0: 2.0, 99: 2.0}),
    (dict(schedule="constant", warmup_steps=4), {0: 0.5, 1: 1.0, 3: 2.0, 4: 2}),
    (dict(schedule="step", decay_at=10), {0: 2.0, 9: 2.0, 10: 0.2, 99: 0.2}),
    (dict(schedule="cosine"), {0: 2.0, 50: 1.1, 100: 0.2, 200: 0.2}),
    (dict(schedule="cosine", decay_factor=0.0), {50: 1.0, 100: 0.0}),
    (dict(schedule="step", decay_at=2, warmup_steps=4), {1: 1.0, 2: 0.15}),
  ],
)
def test_schedules_at_their_corners(settings, expected):
  """Fails if a rate drops a step early, or starts at 0."""
  settings = OptimizerSettings(learning_rate=2.0, **settings)
  rate = make_schedule(settings, num_steps=100)
  for step, value in expected.items():
    np.testing.assert_allclose(rate(jnp.int32(step)), value, rtol=1e-5)


def test_unknown_schedule_is_refused():
  """Fails if a misspelt schedule trains at a constant rate."""
  with pytest.raises(SettingError, match="schedule must be one of .* got 'lin"):
    create_optimizer(OptimizerSettings(schedule="lin"), num_steps=1)


MODEL = {
  "embedding": {"table": jnp.linspace(-1, 2, 12).reshape(4, 3)},
  "layer_0": {"kernel": jnp.linspace(-2, 1, 9).reshape(3, 3) ** 2},
  "logits": {"bias": jnp.array([0.5, 3.0, -1.0])},
}


def directions(optimizer, params):
  """The updates of three steps, with gradients that differ."""
  state, found = optimizer.init(params), []
  for step in range(3):
    gradients = jax.tree.map(lambda x, s=step: jnp.sin(3 * x + s), params)
    update, state = optimizer.update(gradients, state, params)
    found.append(update)
  return found


@pytest.mark.parametrize(
  ("settings", "optimizer"),
  [
    (dict(name="adamw"), optax.adamw(0.1, weight_decay=0)),
    (dict(name="sgd"), optax.sgd(0.1, momentum=0.9)),
    (dict(name="sgd", beta1=0.0), optax.sgd(0.1)),
    (dict(name="lion"), optax.lion(0.1, b2=0.999, weight_decay=0)),
    (dict(name="adafactor"), optax.adafactor(0.1)),
    (
      dict(name="muon"),
      optax.contrib.muon(
        0.1,
        beta=0.9,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=lambda params: {
          "embedding": None,
          "layer_0": {"kernel": optax.contrib.MuonDimensionNumbers()},
          "logits": None,
        },
      ),
    ),
  ],
  ids=lambda x: x.get("name") if isinstance(x, dict) else "",
)
def test_each_optimizer_is_that_of_optax(settings, optimizer):
  """Fails if a name, a sign or a setting leads to another optimizer."""
  settings = OptimizerSettings(learning_rate=0.1, **settings)
  found, right = (
    jax.jit(lambda params, x=x: directions(x, params))(MODEL)
    for x in (create_optimizer(settings, 3), optimizer)
  )
  chex.assert_trees_all_close(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "sgd", "lion", "muon"])
def test_stacked_layers_take_the_same_steps(name):
  """Fails if an optimizer mixes the layers of a stack."""
  params = {f"layer_{i}": {"kernel": jnp.eye(3) * i + 0.1} for i in range(2)}
  optimizer = create_optimizer(OptimizerSettings(name=name), 3)

  def stacked(params):
    return stacking.unstack(directions(optimizer, stacking.stack(params, 1)))

  right = jax.jit(lambda params: directions(optimizer, params))(params)
  found = jax.jit(stacked)(params)
  chex.assert_trees_all_close(found, right, rtol=1e-5, atol=1e-6)


def test_adam_has_no_weight_decay():
  """Fails if the same optimizer has two names."""
  with pytest.raises(SettingError, match="must be 0 for name='adam'.*adamw"):
    create_optimizer(OptimizerSettings(weight_decay=0.1), 3)
