"""The three forms of linear attention: one function, one gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels import (
  PrefixSums,
  chunked_linear_attention,
  init_prefix_sums,
  parallel_linear_attention,
  recurrent_linear_attention,
)
from tests.helpers import TOLERANCES, assert_gradients_close, pairwise

B, H, M, V = 2, 3, 4, 5


def in_blocks_of(block_size):
  """The chunked form, with a name for the test's identifier."""
  form = functools.partial(chunked_linear_attention, block_size=block_size)
  form.__name__ = f"blocks_of_{block_size}"
  return form


FORMS = [
  parallel_linear_attention,
  recurrent_linear_attention,
  *map(in_blocks_of, [1, 7, 64, 200]),
]


def random_arguments(length, dtype, compensated=False, sizes=(B, H, M, V)):
  """q, k, v and a state; and cotangents of y and of the final state."""
  random = np.random.default_rng(length)
  batch, heads, features, width = sizes

  def positive(*shape):
    # Not near 0, where the gradient of q cancels.
    return random.uniform(0.1, 1, size=shape).astype(dtype)

  def normal(*shape):
    return random.normal(size=shape).astype(dtype)

  def sums(make):
    shape = (batch, heads, features)
    state = PrefixSums(make(*shape, width), make(*shape))
    if not compensated:
      return state
    return state._replace(error=jax.tree.map(np.zeros_like, state))

  tokens = (batch, length, heads)
  args = (
    positive(*tokens, features),
    positive(*tokens, features),
    normal(*tokens, width),
    sums(positive),
  )
  return args, (normal(*tokens, width), sums(normal))


def by_equation(q, k, v, state, y_ct, state_ct, eps):
  """The equations of the module, token by token, with gradients.

  Returns:
    y, the final kv and k, and the gradients of q, k, v and the initial kv and
    k, in float64.
  """
  q, k, v, y_ct = (np.moveaxis(np.float64(x), 1, 0) for x in (q, k, v, y_ct))
  sums = [(np.float64(state.kv), np.float64(state.k))]
  y = np.zeros_like(v)
  for t in range(len(q)):
    kv, z = sums[-1]
    kv, z = kv + k[t][..., :, None] * v[t][..., None, :], z + k[t]
    sums.append((kv, z))
    num, den = (q[t][..., None] * kv).sum(-2), (q[t] * z).sum(-1) + eps
    y[t] = num / den[..., None]
  q_ct, k_ct, v_ct = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
  kv_ct, z_ct = np.float64(state_ct.kv), np.float64(state_ct.k)
  for t in reversed(range(len(q))):
    kv, z = sums[t + 1]
    den = (q[t] * z).sum(-1) + eps
    num_ct = y_ct[t] / den[..., None]
    den_ct = -(y_ct[t] * y[t]).sum(-1) / den
    q_ct[t] = (kv * num_ct[..., None, :]).sum(-1) + z * den_ct[..., None]
    kv_ct = kv_ct + q[t][..., :, None] * num_ct[..., None, :]
    z_ct = z_ct + q[t] * den_ct[..., None]
    k_ct[t] = (kv_ct * v[t][..., None, :]).sum(-1) + z_ct
    v_ct[t] = (kv_ct * k[t][..., :, None]).sum(-2)
  y, *token_cts = (np.moveaxis(x, 0, 1) for x in (y, q_ct, k_ct, v_ct))
  return (y, *sums[-1]), (*token_cts, kv_ct, z_ct)


@functools.cache
def compiled(form, eps, dtype):
  """One function for all calls, so that equal shapes compile once."""

  def run(args, cts):
    (y, state), vjp = jax.vjp(functools.partial(form, eps=eps), *args)
    *token_cts, state_ct = vjp(cts)
    return (y, state.kv, state.k), (*token_cts, state_ct.kv, state_ct.k)

  return jax.jit(run)


def by_form(form, args, cts, eps=1e-16):
  """The same from one of the forms."""
  return compiled(form, eps, args[0].dtype)(args, cts)


def assert_right(form, args, cts, tol, eps=1e-16):
  """Compares outputs and gradients of a form with the equations."""
  outputs, gradients = by_form(form, args, cts, eps)
  right_outputs, right_gradients = by_equation(*args, *cts, eps)
  for a, b in zip(outputs, right_outputs, strict=True):
    assert_gradients_close(a, b, tol)
  assert_gradients_close(gradients, right_gradients, tol)


@pytest.mark.parametrize(
  "case",
  pairwise(
    form=FORMS,
    length=[1, 2, 63, 64, 65, 130],
    dtype=list(TOLERANCES),
    compensated=[False, True],
  ),
)
def test_every_form_computes_the_equation(x64, case):
  """Fails if a form computes another value or gradient."""
  args, cts = random_arguments(
    case["length"], case["dtype"], case["compensated"]
  )
  assert_right(case["form"], args, cts, TOLERANCES[case["dtype"]])


@settings(max_examples=5)
@given(
  length=st.integers(1, 9),
  block_size=st.integers(1, 11),
  sizes=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_blocks_of_any_size_compute_the_equation(length, block_size, sizes):
  """Fails if some shape, such as an axis of 1, is padded wrongly."""
  with jax.enable_x64(True):
    args, cts = random_arguments(length, "float64", sizes=sizes)
    assert_right(in_blocks_of(block_size), args, cts, TOLERANCES["float64"])


THREE_FORMS = [
  parallel_linear_attention,
  recurrent_linear_attention,
  in_blocks_of(4),
]


@pytest.mark.parametrize(
  "forms",
  [THREE_FORMS, pytest.param(THREE_FORMS[::-1], marks=pytest.mark.slow)],
  ids=["as listed", "reversed"],
)
@pytest.mark.parametrize("compensated", [False, True])
def test_a_sequence_can_be_cut_and_continued(x64, forms, compensated):
  """Fails if generation cannot continue from the state of a prompt."""

  def cut(q, k, v, state, eps):
    ys = []
    for i, form in enumerate([*forms, forms[0]]):
      q_part, k_part, v_part = (x[:, 3 * i : 3 * i + 3] for x in (q, k, v))
      y, state = form(q_part, k_part, v_part, state, eps=eps)
      ys.append(y)
    return jnp.concatenate(ys, 1), state

  args, cts = random_arguments(11, "float64", compensated)
  assert_right(cut, args, cts, TOLERANCES["float64"])


@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_error_terms_reach_the_output(form):
  """Fails if the error terms of compensated sums do not reach the output."""
  args, _ = random_arguments(6, "float32", compensated=True)
  *tokens, state = args
  # Larger than real rounding errors, to be visible.
  error = jax.tree.map(lambda x: np.full_like(x, 0.25), state.error)
  moved = PrefixSums(state.kv - error.kv, state.k - error.k, error)
  form = jax.jit(form)
  y, after = form(*tokens, moved)
  right_y, right_after = form(*tokens, state)
  np.testing.assert_allclose(y, right_y, rtol=1e-4)
  assert_gradients_close(
    [after.kv + after.error.kv, after.k + after.error.k],
    [right_after.kv, right_after.k],
    TOLERANCES["float32"],
  )


@pytest.mark.parametrize("eps", [0.0, 1e-16])
@pytest.mark.parametrize("zero", ["q", "k", "both"])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_zero_features_give_no_nan(form, zero, eps):
  """Fails if one token without features makes the whole gradient NaN."""
  (q, k, v, state), cts = random_arguments(7, "float32")
  state = jax.tree.map(np.zeros_like, state)
  q = q * 0 if zero in ("q", "both") else q
  k = k * 0 if zero in ("k", "both") else k
  outputs, gradients = by_form(form, (q, k, v, state), cts, eps)
  assert not outputs[0].any()
  for x in jax.tree.leaves((outputs, gradients)):
    assert np.isfinite(x).all()


@pytest.mark.parametrize("length", [5, 7])
def test_padding_does_not_divide_by_zero(length):
  """Fails if a padded last block makes every gradient NaN at eps = 0."""
  args, cts = random_arguments(length, "float32")
  assert_right(in_blocks_of(4), args, cts, TOLERANCES["float32"], eps=0.0)


@pytest.mark.parametrize("exponent", [-20, -12, 0, 12, 25])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_tiny_and_huge_normalisers_have_gradients(form, exponent):
  """Fails if the square of the normaliser overflows or underflows."""
  (q, k, v, state), cts = random_arguments(9, "float32")
  # The normaliser is q · z. A cotangent of the final state would dominate k's.
  q, k, state = jax.tree.map(
    lambda x: np.float32(x * 10.0 ** (exponent / 2)), (q, k, state)
  )
  cts = (cts[0], jax.tree.map(np.zeros_like, cts[1]))
  outputs, gradients = by_form(form, (q, k, v, state), cts, eps=0.0)
  right_outputs, right_gradients = by_equation(q, k, v, state, *cts, eps=0.0)
  pairs = zip(
    (*outputs, *gradients), (*right_outputs, *right_gradients), strict=True
  )
  # One at a time, as their sizes differ by many orders of magnitude.
  for a, b in pairs:
    assert_gradients_close(a, b, TOLERANCES["float32"])


@pytest.mark.parametrize("compensated", [False, True])
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_short_floats_have_a_float32_state(form, compensated):
  """Fails if sums are in bfloat16, which stop growing after 256 tokens."""
  ones = jnp.ones((1, 301, 1, 1), jnp.bfloat16)
  state = init_prefix_sums(1, 1, 1, 1, compensated=compensated)
  y, after = jax.jit(form)(ones, ones, ones, state)
  assert y.dtype == jnp.bfloat16
  assert {x.dtype for x in jax.tree.leaves(after)} == {jnp.dtype("float32")}
  assert jax.tree.structure(after) == jax.tree.structure(state)
  assert (after.kv.item(), after.k.item()) == (301, 301)
  assert (y == 1).all()


def test_value_offset_removes_rounding_of_a_common_part(x64):
  """Fails if subtracting a constant from the values no longer helps."""
  random = np.random.default_rng(0)
  q, k, v, y_ct = random.normal(size=(4, 1, 500, 2, 8))
  q, k, v = q**2, k**2, v + 100

  @functools.partial(jax.jit, static_argnums=(0, 1))
  def gradient(dtype, has_offset):
    k_, v_, y_ct_ = (jnp.asarray(x, dtype) for x in (k, v, y_ct))
    state = init_prefix_sums(1, 2, 8, 8, dtype=dtype)
    offset = v_[:, :1] if has_offset else jnp.zeros_like(v_[:, :1])

    def loss(q):
      y, _ = chunked_linear_attention(q, k_, v_ - offset, state)
      return jnp.vdot(y + offset, y_ct_)

    return jax.grad(loss)(jnp.asarray(q, dtype))

  right = gradient("float64", False)
  assert_gradients_close(gradient("float64", True), right, 1e-10)
  errors = [
    np.linalg.norm(gradient("float32", has_offset) - right)
    / np.linalg.norm(right)
    for has_offset in (False, True)
  ]
  assert errors[1] <= 1e-5 < 3e-5 <= errors[0], errors


@pytest.mark.parametrize(
  ("name", "shape", "message"),
  [
    ("q", (2, 6, 3), r"q must have shape \[B, T, H, M\], got \(2, 6, 3\)"),
    (
      "q",
      (2, 0, 3, 4),
      r"q must have shape \[B, T, H, M\], got \(2, 0, 3, 4\)",
    ),
    ("k", (2, 6, 3, 5), "k must .* with B=2, T=6, H=3, M=4, got .*3, 5"),
    ("k", (1, 6, 3, 4), r"k must .* with B=2, .* got \(1, 6, 3, 4\)"),
    (
      "v",
      (2, 5, 3, 5),
      r"v must have shape \[B, T, H, V\] .* got \(2, 5, 3, 5",
    ),
    ("v", (2, 6, 5), r"v must have shape \[B, T, H, V\] .* got \(2, 6, 5\)"),
    ("v", (), r"v must have shape \[B, T, H, V\] .* got \(\)"),
    ("kv", (2, 3, 4, 1), r"state.kv must .* H=3, M=4, V=5, got \(2, 3, 4, 1\)"),
    ("sums", (2, 3, 1), r"state.k must .* with B=2, H=3, M=4, got \(2, 3, 1\)"),
  ],
  ids=str,
)
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_wrong_shape_is_refused(form, name, shape, message):
  """Fails if it is broadcast to a wrong result, or fails inside an einsum."""
  (q, k, v, state), _ = random_arguments(6, "float32")
  args = {"q": q, "k": k, "v": v, "kv": state.kv, "sums": state.k}
  args[name] = np.ones(shape, np.float32)
  state = PrefixSums(args["kv"], args["sums"])
  with pytest.raises(ValueError, match=message):
    form(args["q"], args["k"], args["v"], state)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"k": np.ones((2, 6, 3, 4), int)}, "k must be floating-point, got int"),
    ({"eps": np.ones(3)}, r"eps must be a number.* of shape \(3,\)"),
    ({"eps": "1"}, "eps must be a number.* got '1'"),
  ],
  ids=["integers", "several", "text"],
)
@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_wrong_dtype_is_refused(form, changes, message):
  """Fails if y is cut to integers, or several eps meet the wrong axis."""
  (q, k, v, state), _ = random_arguments(6, "float32")
  with pytest.raises(ValueError, match=message):
    form(**{"q": q, "k": k, "v": v, "state": state} | changes)


@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_eps_may_be_an_array(x64, form):
  """Fails if a traced eps fails inside JAX, widens y, or has no gradient."""
  args, (y_ct, _) = random_arguments(6, "float32")
  epsilons = jnp.asarray([0.5, 2.0], jnp.bfloat16)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def run(args, eps):
    y, vjp = jax.vjp(lambda eps: form(*args, eps=eps)[0], eps)
    return y, *vjp(jnp.asarray(y_ct))

  y, eps_ct = run(args, epsilons)
  assert (y.dtype, eps_ct.dtype) == ("float32", "bfloat16")
  q, k = np.float64(args[0]), np.float64(args[1])
  sums = np.float64(args[3].k)[:, None] + np.cumsum(k, 1)
  den = (q * sums).sum(-1)[..., None]
  for i, eps in enumerate([0.5, 2.0]):
    right = by_form(form, args, random_arguments(6, "float32")[1], eps)[0][0]
    assert_gradients_close(y[i], right, TOLERANCES["float32"])
    slope = -(np.float64(y_ct) * y[i] / (den + eps)).sum()
    np.testing.assert_allclose(np.float64(eps_ct[i]), slope, rtol=5e-3)


@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_numpy_arrays_and_empty_batch(form):
  """Fails if they are refused for a state that cannot be wider, or warn."""
  args, cts = random_arguments(6, "float64")
  # Closed over, as jax.jit narrows its arguments itself.
  y, state = jax.jit(lambda: form(*args))()
  assert (y.dtype, state.k.dtype) == ("float32", "float32")
  right, _ = by_form(form, *jax.tree.map(np.float32, (args, cts)))
  assert_gradients_close((y, *state[:2]), right, TOLERANCES["float32"])
  none = jax.tree.map(lambda x: x[:0], args)
  y, state = jax.jit(lambda: form(*none))()
  assert (y.shape, state.kv.shape) == ((0, 6, H, V), (0, H, M, V))


@pytest.mark.parametrize("block_size", [0, -1, True, 1.5])
def test_bad_block_size_is_refused(block_size):
  """Fails if the error comes from a reshape, or if True means 1."""
  args, _ = random_arguments(6, "float32")
  message = f"block_size must be a positive integer, got {block_size!r}$"
  with pytest.raises(ValueError, match=message):
    chunked_linear_attention(*args, block_size=block_size)
