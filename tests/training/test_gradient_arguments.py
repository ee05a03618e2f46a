"""Gradients of sharded batches, and the arguments that are refused."""

import jax
import pytest

from slim.training.gradients import make_value_and_grad
from tests.models.small import KEYS, batch_of, create, params_of
from tests.training.gradient_cases import DROPS, T, assert_same, full


def test_unknown_method_is_refused():
  """A misspelt method would be found after minutes of compilation."""
  with pytest.raises(ValueError, match="method must be one of .*'slmi'"):
    make_value_and_grad(create(dtype="float32"), method="slmi")


@pytest.mark.parametrize(
  "how, message",
  [
    ({}, "chunk_size must be a positive integer, got None"),
    ({"chunk_size": 0}, "chunk_size must be a positive integer, got 0"),
    ({"chunk_size": -3}, "chunk_size must be a positive integer, got -3"),
    ({"chunk_size": 2.5}, "chunk_size must be a positive integer, got 2.5"),
    (
      {"chunk_size": 7, "policy": "keep"},
      "policy must be one of ('store', 'sqrt', 'rewind'), got 'keep'",
    ),
  ],
  ids=str,
)
def test_wrong_chunks_and_policies_are_refused(how, message):
  """The error would be one of shapes, within the scan."""
  with pytest.raises(ValueError) as error:
    make_value_and_grad(create(dtype="float32"), method="slim", **how)
  assert str(error.value) == message


@pytest.mark.parametrize(
  "how",
  [
    {"method": "slim", "chunk_size": 95, "policy": "rewind"},
    *(
      pytest.param(how, marks=pytest.mark.slow)
      for how in (
        {"method": "full"},
        {"method": "remat"},
        {"method": "slim", "chunk_size": 7, "policy": "rewind"},
        {"method": "slim", "chunk_size": 7, "policy": "store"},
        {"method": "slim", "chunk_size": 2, "policy": "sqrt"},
        {"method": "slim", "chunk_size": T, "policy": "rewind"},
      )
    ),
  ],
  ids=lambda how: "-".join(map(str, how.values())),
)
def test_data_parallel_gradients(x64, how):
  """Sequences could not be spread over devices, or the sums would differ."""
  model = create(**DROPS)
  value_and_grad = make_value_and_grad(model, **how)

  def on_one_device(params, batch, keys):
    params = jax.tree.map(
      lambda x: jax.lax.pcast(x, ("data",), to="varying"), params
    )
    found = value_and_grad(params, batch, keys)
    return jax.tree.map(lambda x: jax.lax.psum(x, "data"), found)

  spread, whole = jax.P("data"), jax.P()
  devices = jax.make_mesh(
    (2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  found = jax.jit(
    jax.shard_map(
      on_one_device,
      mesh=devices,
      in_specs=(whole, spread, spread),
      out_specs=whole,
    ),
  )(params_of(model), batch_of(T), KEYS)
  assert_same(found, full(**DROPS))


def test_a_model_that_cannot_be_undone_is_refused():
  """It would end in a traceback from inside the kernel."""
  model = create(dtype="float32")._replace(rewind=None)
  with pytest.raises(
    ValueError, match="policy must be 'store' or 'sqrt' for a"
  ):
    make_value_and_grad(model, method="slim", chunk_size=7, policy="rewind")
