"""Timelines against the totals of the compiler and the source lines."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.kernels import chunked_softmax_attention, scan
from slim.memory import memory_report, memory_timeline

F32 = 4


def shape(*sizes):
  """Returns a float32 array that has a shape and no memory."""
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def mlp(weights, x):
  """Applies one layer per weight."""
  for w in weights:
    x = jnp.tanh(x @ w)
  return jnp.sum(x * x)


def recurrence(w, xs):
  """A `lax.scan` whose gradient needs tanh of each step."""

  def body(state, x):
    state = jnp.tanh(state @ w + x)
    return state, None

  return jnp.sum(jax.lax.scan(body, xs[0], xs)[0])


def chunks(policy, w, state, xs):
  """A `slim.kernels.scan` of a running sum and a layer."""

  def outputs(before, chunk):
    hidden = jnp.tanh(chunk @ w + before[:, None])
    return jnp.sum(hidden**2, axis=2)

  def step(w, state, chunk):
    return state + jnp.sum(chunk, axis=1), outputs(state, chunk)

  def rewind(w, state, chunk):
    before = state - jnp.sum(chunk, axis=1)
    return before, outputs(before, chunk), before + jnp.sum(chunk, axis=1)

  rewind = rewind if policy == "rewind" else None
  _, outs = scan(
    step, w, state, xs, chunk_size=64, policy=policy, rewind=rewind
  )
  return jnp.sum(outs)


def softmax(attend, q, k, v):
  """Sums the squared outputs of attention."""
  return jnp.sum(attend(q, k, v) ** 2)


QKV = (shape(1, 512, 4, 32),) * 3
CHUNKS = shape(64, 64), shape(4, 64), shape(4, 1000, 64)
PROGRAMS = {
  "mlp": (jax.grad(mlp), [shape(256, 256)] * 4, shape(512, 256)),
  "lax.scan": (jax.grad(recurrence), shape(64, 64), shape(100, 32, 64)),
  "store": (jax.grad(functools.partial(chunks, "store")), *CHUNKS),
  "rewind": (jax.grad(functools.partial(chunks, "rewind")), *CHUNKS),
  "softmax": (
    jax.grad(functools.partial(softmax, jax.nn.dot_product_attention)),
    *QKV,
  ),
  "blocks": (
    jax.grad(functools.partial(softmax, chunked_softmax_attention)),
    *QKV,
  ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_peak_is_temporary_memory(name):
  """Fails if the body of a loop, or what is live around it, is left out."""
  temporary = memory_report(*PROGRAMS[name]).temporary_bytes
  timeline = memory_timeline(*PROGRAMS[name])
  # Gaps between buffers are at most 0.6 % here, with jax 0.10 and 0.12.
  assert 0.99 * temporary <= timeline.peak_bytes <= temporary
  # Values in one place are listed once.
  sizes = [x.size for x in timeline.buffers]
  assert sum(sizes) == timeline.peak_bytes
  assert sizes == sorted(sizes, reverse=True)


def line_of(function, offset):
  """Returns this file and the line `offset` below a function's `def`."""
  return f"{__file__}:{function.__code__.co_firstlineno + offset}"


def test_largest_buffer_has_its_line():
  """Fails if the largest buffer has another source line."""

  def loss(x, w):
    small = jnp.sin(x)
    large = jnp.exp(small @ w)
    return jnp.sum(large)

  timeline = memory_timeline(jax.grad(loss), shape(256, 8), shape(8, 1024))
  largest = timeline.buffers[0]
  assert largest.size == 256 * 1024 * F32
  assert largest.shape == "f32[256,1024]"
  assert largest.source == line_of(loss, 2)


def test_stack_of_loop_has_line_of_its_rows():
  """Fails if everything that a scan keeps has the line of the scan."""
  timeline = memory_timeline(
    jax.grad(recurrence), shape(64, 64), shape(100, 32, 64)
  )
  largest = timeline.buffers[0]
  assert largest.shape == "f32[100,32,64]"
  assert largest.source == line_of(recurrence, 4)


def test_line_in_library_becomes_line_of_caller():
  """Fails if the source is a line of an installed package."""

  def loss(logits, labels):
    return jnp.sum(
      optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    )

  labels = jax.ShapeDtypeStruct((64,), jnp.int32)
  timeline = memory_timeline(jax.grad(loss), shape(64, 4096), labels)
  first = loss.__code__.co_firstlineno
  lines = [f"{__file__}:{first + i}" for i in range(4)]
  assert timeline.buffers[0].source in lines


def test_loop_is_plateau():
  """Fails if memory vanishes or grows inside a loop."""

  def run(length):
    live = memory_timeline(
      jax.grad(recurrence), shape(64, 64), shape(length, 32, 64)
    ).live
    [above] = np.nonzero(live >= length * 32 * 64 * F32)
    return live, above

  live, above = run(100)
  np.testing.assert_array_equal(above, np.arange(above[0], above[-1] + 1))
  assert len(above) > len(live) / 2  # Forward and backward.
  assert len(run(200)[0]) == len(live)  # The body is listed once.


def test_unrolled_layers_ramp_up_and_down():
  """Fails if instructions are not in program order."""
  live = memory_timeline(*PROGRAMS["mlp"]).live
  kept = 512 * 256 * F32
  rising = [int(np.argmax(live >= i * kept)) for i in (1, 2, 3, 4)]
  assert rising == sorted(set(rising))
  assert live[-1] < kept


def test_program_without_temporary_memory():
  """Fails if a program without temporary buffers raises."""
  timeline = memory_timeline(lambda x: x + 1, shape(8))
  assert timeline.peak_bytes == 0
  assert timeline.buffers == ()


def test_donations_and_options_are_kept():
  """Fails if the timeline describes another program than the report."""
  update = jax.jit(lambda x: x @ x + x, donate_argnums=0)
  report = memory_report(update, shape(64, 64))
  timeline = memory_timeline(update, shape(64, 64))
  assert timeline.peak_bytes == report.temporary_bytes
  with pytest.raises(Exception, match="xla_no_such_option"):
    memory_timeline(
      jnp.sin, shape(2), compiler_options={"xla_no_such_option": True}
    )


@pytest.mark.usefixtures("compilation_cache")
def test_cached_program_has_timeline():
  """Fails if the second call finds no dump, because XLA compiles nothing."""
  for _ in range(2):
    fn = functools.partial(mlp)  # A new one, which JAX has not compiled.
    jax.jit(fn).lower([shape(8, 8)] * 4, shape(4, 8)).compile()
    assert memory_timeline(fn, [shape(8, 8)] * 4, shape(4, 8)).peak_bytes
  assert jax.config.jax_enable_compilation_cache
