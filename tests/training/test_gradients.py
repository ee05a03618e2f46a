"""Every method of differentiation gives the gradient of every other."""

import functools

import jax
import numpy as np
import pytest

from slim.certify.gradient_error import relative_errors
from slim.kernels import POLICIES
from slim.training.gradients import make_value_and_grad
from slim.types import Batch
from tests.helpers import pairwise
from tests.models.small import (
  KEYS,
  SIZES,
  batch_of,
  create,
  gradient_of,
  params_of,
)
from tests.training.gradient_cases import (
  DROPS,
  NORMED,
  PROJECTED,
  RANDOM,
  T,
  assert_same,
  full,
)

VOCAB_SIZE = SIZES["vocab_size"]


def slim(chunk_size, policy="rewind", **settings):
  """The sums and the gradient by slim, chunk by chunk."""
  model = create(**settings)
  run = gradient_of(model, method="slim", chunk_size=chunk_size, policy=policy)
  return run(params_of(model), batch_of(T), KEYS)


@pytest.mark.parametrize(
  ("policy", "chunk_size", "settings"),
  [
    ("rewind", 95, DROPS),
    ("rewind", 7, NORMED),  # Of which the first chunk has a token only.
    ("sqrt", 10, PROJECTED),
    ("store", 95, PROJECTED),
    pytest.param(*("rewind", 38, RANDOM), marks=pytest.mark.slow),
  ],
)
def test_slim_is_full(x64, policy, chunk_size, settings):
  """The one claim of the method: the gradient is exact."""
  assert_same(slim(chunk_size, policy, **settings), full(**settings))


def test_slim_of_reversible_layers_is_full(x64):
  """The layers would be undone, or the chunks, as if there were only one."""
  settings = {"reversible": True}
  assert_same(slim(95, **settings), full(**settings), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  pairwise(
    chunk_size=[1, 7, 64, 95, T, T + 5],
    policy=POLICIES,
    feature_map=["square", "relu", "elu_plus_one"],
    qk_norm=[False, True],
    norm=["output", "pre", "post"],
    output_projection=[False, True],
    dropout=[0.0, 0.1],
  ),
)
def test_slim_is_full_for_all_settings(x64, case):
  """As above, for every C."""
  case = dict(case)
  how = {name: case.pop(name) for name in ("chunk_size", "policy")}
  assert_same(slim(**how, **case), full(**case))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("policy", "qk_norm"),
  [
    ("store", False),
    ("sqrt", False),
    ("sqrt", True),
    ("rewind", False),
    ("rewind", True),
  ],
)
def test_slim_is_full_with_random_features(x64, policy, qk_norm):
  """Features would be drawn anew, or depend on how the sequence is cut."""
  settings = RANDOM | {"qk_norm": qk_norm, "num_layers": 2}
  assert_same(slim(7, policy, **settings), full(**settings))


def test_remat_is_full(x64):
  """The baseline would be another model's."""
  model = create(**DROPS)
  remat = gradient_of(model, method="remat")
  found = remat(params_of(model), batch_of(T), KEYS)
  assert_same(found, full(**DROPS))


@pytest.mark.parametrize(
  "how", [{"method": "full"}, {"method": "slim", "chunk_size": 95}], ids=str
)
def test_rows_are_alone(x64, how):
  """One sequence would be trained by the masks or tokens of its neighbour."""
  model = create(**DROPS)
  run = functools.partial(gradient_of(model, **how), params_of(model))
  batch, other_keys = batch_of(T), jax.random.split(jax.random.key(99), 2)
  sums, gradient = run(batch, KEYS)

  def of_row(row, inputs, keys):
    """The gradient of a row beside another, which has no weight."""
    weights = np.zeros_like(batch.weights)
    weights[row] = batch.weights[row]
    return run(Batch(inputs, batch.targets, weights), keys)

  for row in range(2):
    inputs = np.full_like(batch.inputs, 3)
    inputs[row] = batch.inputs[row]
    found = of_row(row, inputs, other_keys.at[row].set(KEYS[row]))
    assert_same(found, of_row(row, batch.inputs, KEYS))
  # Another place in the batch is no other mask.
  turned = jax.tree.map(lambda x: x[::-1], batch)
  assert_same(run(turned, KEYS[::-1]), (sums, gradient))
  # Nor are all masks one: comparisons would be of runs without dropout.
  errors = relative_errors(run(batch, KEYS[::-1])[1], gradient)
  assert min(errors.values()) > 1e-2


@pytest.mark.parametrize(
  "how", [{"method": "full"}, {"method": "slim", "chunk_size": 95}], ids=str
)
def test_targets_without_weight_do_not_count(x64, how):
  """The loss on the second half of a copy would learn from the first."""
  model = create(**DROPS)
  run = gradient_of(model, **how)
  params, batch = params_of(model), batch_of(T)
  expected = run(params, batch, KEYS)
  unseen = batch.weights == 0
  assert unseen.any()
  other = np.where(unseen, (batch.targets + 1) % VOCAB_SIZE, batch.targets)
  found = run(params, batch._replace(targets=other), KEYS)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_without_jit(x64):
  """Debugging, one operation at a time, would be of something else."""
  model = create()
  value_and_grad = make_value_and_grad(model, method="slim", chunk_size=95)
  assert_same(value_and_grad(params_of(model), batch_of(T), KEYS), full())
