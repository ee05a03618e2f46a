"""Gradients of small models by each method, for comparison."""

import functools

import numpy as np

from tests.helpers import assert_gradients_close
from tests.models.small import KEYS, batch_of, create, gradient_of, params_of

T = 190


@functools.cache
def full(**settings):
  """The sums and the gradient to find, by plain differentiation."""
  model = create(**settings)
  return gradient_of(model, method="full")(params_of(model), batch_of(T), KEYS)


def assert_same(found, expected, tol=1e-12):
  """Compares sums and gradients."""
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
  assert_gradients_close(found[1], expected[1], tol)


# Models of these four have a program for each method, which most tests share.
DROPS = {"dropout": 0.1}
NORMED = {
  "feature_map": "relu",
  "qk_norm": True,
  "norm": "pre",
  "num_layers": 2,
}
PROJECTED = {
  "feature_map": "elu_plus_one",
  "norm": "post",
  "output_projection": True,
}
RANDOM = {
  "feature_map": "favor",
  "num_features": 20,
  "qk_norm": True,
  "norm": "pre",
}
