"""The gradient of the toy recurrence, and comparisons with it."""

from tests.helpers import TOLERANCES, assert_gradients_close
from tests.kernels.toy import dense, gradients_and_outputs, loss

# "sqrt" makes of the 8 chunks: the short one, a short group, 3 groups of 2.
T, C = 15, 2


def value(inputs, data, run):
  """The toy's loss alone."""
  return loss(inputs, data, run)[0]


def right_gradients(inputs, data):
  """What is right; compiled once for all that walks in chunks."""
  return gradients_and_outputs(inputs, data, dense)[0]


def assert_close(found, right):
  """Compares gradients in float64."""
  assert_gradients_close(found, right, TOLERANCES["float64"])
