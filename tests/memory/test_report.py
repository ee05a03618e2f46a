"""Reports of programs with known buffers."""

import jax
import jax.numpy as jnp
import pytest

from slim.memory import memory_report
from slim.memory.report import report_of

F32 = 4


def shape(*sizes):
  """Returns a float32 array that has a shape and no memory."""
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def two_products(x, v, w):
  """Has one temporary value, x v."""
  return jnp.tanh(x @ v) @ w


def test_bytes_of_arguments_outputs_and_temporaries():
  """Fails if a field has the wrong number or unit."""
  report = memory_report(
    two_products, shape(512, 64), shape(64, 256), shape(256, 32)
  )
  assert report.argument_bytes == (512 * 64 + 64 * 256 + 256 * 32) * F32
  assert report.output_bytes == 512 * 32 * F32
  assert report.temporary_bytes == 512 * 256 * F32
  assert report.aliased_bytes == 0
  assert report.total_bytes == (
    report.argument_bytes + report.output_bytes + report.temporary_bytes
  )


def test_donated_argument_counts_once():
  """Fails if an in-place update counts twice."""
  update = jax.jit(lambda x, y: x + y, donate_argnums=0)
  report = memory_report(update, shape(512, 64), shape(512, 64))
  assert report.aliased_bytes == 512 * 64 * F32
  assert report.total_bytes == 2 * 512 * 64 * F32


def test_nothing_is_run():
  """Fails if a program is run, which may not fit in memory."""
  report = memory_report(lambda x: x @ x, shape(2**20, 2**20))
  assert report.argument_bytes == report.output_bytes == 2**42


def test_arrays_and_shapes_give_same_report():
  """Fails if only shapes are accepted."""
  arrays = jnp.ones((8, 4)), jnp.ones((4, 8)), jnp.ones((8, 2))
  shapes = shape(8, 4), shape(4, 8), shape(8, 2)
  assert memory_report(two_products, *arrays) == (
    memory_report(two_products, *shapes)
  )


def test_compiler_options_are_used():
  """Fails if the report describes a program without the options."""
  with pytest.raises(Exception, match="xla_no_such_option"):
    memory_report(
      jnp.sin, shape(2), compiler_options={"xla_no_such_option": True}
    )


@pytest.mark.parametrize(
  ("stats", "expected"),
  [(None, None), ({}, None), ({"peak_bytes_in_use": 7}, 7)],
)
def test_device_peak(monkeypatch, stats, expected):
  """Fails if a device that does not count reports 0."""

  class Device:
    def memory_stats(self):
      return stats

  assert memory_report(jnp.sin, shape(2)).device_peak_bytes is None  # A CPU.
  compiled = jax.jit(jnp.sin).lower(shape(2)).compile()
  monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
  assert report_of(compiled).device_peak_bytes == expected
