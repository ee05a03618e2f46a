"""What a run logs at its start."""

import jax.numpy as jnp

from slim.runs import start_log


def test_parameter_table_counts_modules_and_total():
  """Fails if the log does not give the size of the model."""
  params = {"b": {"w": jnp.zeros((3, 4)), "x": jnp.zeros(1)}, "a": jnp.zeros(2)}
  rows = [
    line.split() for line in start_log.parameter_table(params).splitlines()
  ]
  assert rows == [["b", "13"], ["a", "2"], ["total", "15"]]
