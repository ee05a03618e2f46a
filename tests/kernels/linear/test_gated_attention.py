"""Gated linear attention: blocks compute the recurrence, whatever decays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import (
  chunked_gated_linear_attention,
  recurrent_gated_linear_attention,
)
from slim.kernels.linear._gated_blocks import Tokens, _at_once, _in_turn
from tests.helpers import assert_gradients_close, pairwise
from tests.kernels.linear.gated import (
  DECAYS,
  errors,
  gated_arguments,
  value_and_cotangents,
)

FAMILIES = {"per_channel": [False, True], "has_erase": [False, True]}


def assert_close(found, right, tol):
  """Asserts that all arrays of all cases are close, each by its own norm."""
  worst = errors(found, right)
  wrong = {
    f"{name} of {case!r}": error
    for name, by_case in worst.items()
    for case, error in zip(DECAYS, by_case, strict=True)
    if not error <= tol
  }
  assert not wrong, wrong


@pytest.mark.parametrize(
  "case",
  pairwise(length=[65, 2], block_size=[64, 16], **FAMILIES)
  + [
    pytest.param(
      dict(length=length, block_size=64, per_channel=True, has_erase=True),
      marks=pytest.mark.slow,
    )
    for length in (1, 63, 129)
  ],
)
def test_blocks_compute_the_recurrence(x64, case):
  """Fails if a decay overflows, cancels, or reaches another document."""
  length, block_size = case.pop("length"), case.pop("block_size")
  args, cts = gated_arguments(length, **case)
  right = value_and_cotangents(recurrent_gated_linear_attention, args, cts)
  found = value_and_cotangents(
    chunked_gated_linear_attention, args, cts, block_size=block_size
  )
  assert_close(found, right, 1e-13)


@pytest.mark.parametrize("case", pairwise(**FAMILIES))
def test_the_recurrence_is_its_equation(x64, case):
  """Fails if the definition, which judges all other forms, is another one."""
  (q, k, v, g, state, e), _ = gated_arguments(5, **case)
  found = jax.jit(recurrent_gated_linear_attention)(q, k, v, g, state, erase=e)
  g, s = g if g.ndim == 4 else g[..., None], state
  e, ys = 0 * k if e is None else e, []
  for t in range(q.shape[1]):
    s = np.exp(g[:, t])[..., None] * s
    written = v[:, t] - np.einsum("bhk,bhkv->bhv", e[:, t], s)
    s = s + np.einsum("bhk,bhv->bhkv", k[:, t], written)
    ys.append(np.einsum("bhk,bhkv->bhv", q[:, t], s))
  for x, right in zip(found, (np.stack(ys, 1), s), strict=True):
    np.testing.assert_allclose(x, right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", pairwise(**FAMILIES))
def test_float32_is_as_exact_as_its_digits(case):
  """Fails if digits cancel, as in the gradient of a decay near 1."""
  args, cts = gated_arguments(129, dtype="float32", **case)
  found = value_and_cotangents(chunked_gated_linear_attention, args, cts)
  with jax.enable_x64(True):
    wide = jax.tree.map(np.float64, (args, cts))
    right = value_and_cotangents(recurrent_gated_linear_attention, *wide)
  assert_close(found, right, 3e-6)


@pytest.mark.parametrize("case", pairwise(**FAMILIES))
def test_a_sequence_can_be_cut_and_continued(x64, case):
  """Fails if a state or its gradient is lost between two calls."""

  def cut(q, k, v, log_decay, state, erase):
    forms = [
      chunked_gated_linear_attention,
      recurrent_gated_linear_attention,
      chunked_gated_linear_attention,
    ]
    ys, start = [], 0
    for form, end in zip(forms, (5, 6, 11), strict=True):
      part = [
        None if x is None else x[:, start:end]
        for x in (q, k, v, log_decay, erase)
      ]
      y, state = form(*part[:4], state, erase=part[4])
      ys.append(y)
      start = end
    return jnp.concatenate(ys, 1), state

  args, cts = gated_arguments(11, **case)
  right = value_and_cotangents(recurrent_gated_linear_attention, args, cts)
  found = value_and_cotangents(
    lambda *args, erase: cut(*args, erase), args, cts
  )
  assert_close(found, right, 1e-13)


@pytest.mark.parametrize("case", pairwise(**FAMILIES))
def test_later_tokens_change_no_bit_of_earlier_outputs(case):
  """Fails if a sum of decays refers to tokens that come later."""
  args, _ = gated_arguments(70, dtype="float32", **case)
  other, _ = gated_arguments(71, dtype="float32", **case)
  seen = 37

  def replace_later(x, y):
    if x is None or x.ndim < 3 or x.shape[1] != 70:
      return x
    return np.concatenate([x[:, :seen], y[:, seen:70]], 1)

  changed = [replace_later(x, y) for x, y in zip(args, other, strict=True)]
  run = jax.jit(
    lambda q, k, v, g, state, e: chunked_gated_linear_attention(
      q, k, v, g, state, erase=e
    )[0]
  )
  before, after = map(np.asarray, (run(*args), run(*changed)))
  np.testing.assert_array_equal(before[:, :seen], after[:, :seen])
  assert (before[:, seen:] != after[:, seen:]).any()


def test_documents_are_apart(x64):
  """Fails if anything before a decay of -inf reaches what follows it."""
  (q, k, v, g, state, e), _ = gated_arguments(
    8, per_channel=True, has_erase=True
  )
  start = 3
  g[:, start] = -np.inf
  cts = np.ones(v.shape), np.ones(state.shape)
  form = chunked_gated_linear_attention
  together = value_and_cotangents(form, (q, k, v, g, state, e), cts)
  alone = value_and_cotangents(
    form,
    [x[:, start:] for x in (q, k, v, g)] + [np.zeros_like(state), e[:, start:]],
    (cts[0][:, start:], cts[1]),
  )
  for name in ("y", "q", "k", "v", "erase"):
    np.testing.assert_allclose(
      together[name][:, start:], alone[name], rtol=1e-12, atol=1e-12
    )
  np.testing.assert_array_equal(together["log_decay"][:, start], 0)


@pytest.mark.slow
def test_a_long_odd_sequence(x64):
  """Fails if a tail of a long sequence is dropped: 65,537 tokens."""
  length = 65_537
  random = np.random.default_rng(0)
  q, k, v = random.normal(size=(3, 1, length, 1, 2)) / 2
  log_decay = -np.exp(random.normal(size=(1, length, 1)))
  state = np.ones((1, 1, 2, 2))
  args = q, k, v, log_decay, state
  y, after = jax.jit(chunked_gated_linear_attention)(*args)
  right_y, right = jax.jit(recurrent_gated_linear_attention)(*args)
  np.testing.assert_allclose(y, right_y, atol=1e-12)
  np.testing.assert_allclose(after, right, atol=1e-12)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"block_size": 48}, "block_size must be a power of 2, got 48"),
    ({"log_decay": np.zeros((1, 4, 3))}, "log_decay must have shape"),
    ({"state": np.zeros((1, 2, 3, 3))}, "state must have shape"),
    ({"erase": np.zeros((1, 4, 2, 4))}, "erase must have shape"),
    ({"q": np.zeros((1, 4, 2, 3), int)}, "q must be floating-point"),
    ({"v": np.zeros((1, 5, 2, 4))}, "v must have shape"),
  ],
)
def test_wrong_arguments_are_named(change, message):
  """Fails if a wrong argument fails inside, or not at all."""
  arguments = {
    "q": np.zeros((1, 4, 2, 3)),
    "k": np.zeros((1, 4, 2, 3)),
    "v": np.zeros((1, 4, 2, 4)),
    "log_decay": np.zeros((1, 4, 2)),
    "state": np.zeros((1, 2, 3, 4)),
  }
  with pytest.raises(ValueError, match=message):
    chunked_gated_linear_attention(**(arguments | change))


@pytest.mark.parametrize("case", pairwise(**FAMILIES))
def test_blocks_in_turn_or_at_once(x64, case):
  """Fails if accelerators, which compute all at once, compute another thing."""
  arguments, cts = gated_arguments(16, **case)

  def form(q, k, v, g, state, *, erase, compute):
    tokens = Tokens(q, k, v, g if g.ndim == 4 else g[..., None], erase)
    return compute(4, state, tokens)

  found, right = (
    value_and_cotangents(form, arguments, cts, compute=compute)
    for compute in (_at_once, _in_turn)
  )
  assert_close(found, right, 1e-13)


@pytest.mark.parametrize(
  ("platform", "num_blocks"), [("cpu", 1), ("cuda", 8), ("tpu", 8)]
)
def test_only_cpus_take_blocks_in_turn(platform, num_blocks):
  """Fails if an accelerator computes one block after the other."""
  x = jax.ShapeDtypeStruct((1, 8 * 64, 2, 3), jnp.float32)
  g, state = x.update(shape=x.shape[:3]), x.update(shape=(1, 2, 3, 3))
  traced = jax.jit(chunked_gated_linear_attention).trace(x, x, x, g, state)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert f"-> tensor<{2 * num_blocks}x64x64xf32>" in text


@pytest.mark.parametrize(
  "form", [chunked_gated_linear_attention, recurrent_gated_linear_attention]
)
def test_numpy_arrays_and_empty_batch(form):
  """Fails if NumPy float64 warns, or if the last batch of a dataset fails."""
  case = dict(per_channel=True, has_erase=True)
  arguments, _ = gated_arguments(5, **case, dtype="float32")
  *right, erase = arguments
  right = jax.jit(lambda: form(*right, erase=erase))()
  *args, erase = jax.tree.map(np.float64, arguments)
  found = jax.jit(lambda: form(*args, erase=erase))()
  assert_gradients_close(found, right, 1e-6)
  *none, no_erase = (x[:0] for x in arguments)
  y, state = jax.jit(lambda: form(*none, erase=no_erase))()
  assert (y.shape, state.shape) == ((0, 5, 2, 4), (0, 2, 3, 4))


def test_a_narrow_state_is_refused(x64):
  """Fails if float64 tokens are summed in float32."""
  (q, k, v, g, state, _), _ = gated_arguments(
    4, per_channel=False, has_erase=False
  )
  with pytest.raises(ValueError, match="state must have dtype float64"):
    chunked_gated_linear_attention(q, k, v, g, state.astype(np.float32))
