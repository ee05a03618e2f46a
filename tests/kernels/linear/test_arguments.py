"""The arguments of linear attention: which are accepted and refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.kernels import PrefixSums, chunked_linear_attention
from tests.helpers import TOLERANCES, assert_gradients_close
from tests.kernels.linear.cases import (
  THREE_FORMS,
  H,
  M,
  V,
  by_equation,
  random_arguments,
)


@pytest.mark.parametrize(
  ("name", "shape", "message"),
  [
    ("q", (2, 6, 3), r"q must have shape \[B, T, H, M\], got \(2, 6, 3\)"),
    (
      "q",
      (2, 0, 3, 4),
      r"q must have shape \[B, T, H, M\], and only B may be 0, got \(2, 0,",
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
  args, cts = random_arguments(6, "float32")
  y_ct, _ = cts
  epsilons = jnp.asarray([0.5, 2.0], jnp.bfloat16)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0))
  def run(args, eps):
    y, vjp = jax.vjp(lambda eps: form(*args, eps=eps)[0], eps)
    return y, *vjp(jnp.asarray(y_ct))

  y, eps_ct = run(args, epsilons)
  assert (y.dtype, eps_ct.dtype) == ("float32", "bfloat16")
  y, eps_ct = np.asarray(y), np.asarray(eps_ct, np.float64)
  q, k = np.float64(args[0]), np.float64(args[1])
  sums = np.float64(args[3].k)[:, None] + np.cumsum(k, 1)
  den = (q * sums).sum(-1)[..., None]
  for i, eps in enumerate([0.5, 2.0]):
    (right, *_), _ = by_equation(*args, *cts, eps)
    assert_gradients_close(y[i], right, TOLERANCES["float32"])
    slope = -(np.float64(y_ct) * y[i] / (den + eps)).sum()
    np.testing.assert_allclose(eps_ct[i], slope, rtol=5e-3)


@pytest.mark.parametrize("form", THREE_FORMS, ids=lambda f: f.__name__)
def test_numpy_arrays_and_empty_batch(form):
  """Fails if they are refused for a state that cannot be wider, or warn."""
  args, cts = random_arguments(6, "float64")
  none = jax.tree.map(lambda x: x[:0], args)
  # Closed over, as jax.jit narrows its arguments itself.
  (y, state), empty = jax.jit(lambda: (form(*args), form(*none)))()
  assert (y.dtype, state.k.dtype) == ("float32", "float32")
  right, _ = by_equation(*jax.tree.map(np.float32, (*args, *cts)), eps=1e-16)
  assert_gradients_close((y, *state[:2]), right, TOLERANCES["float32"])
  y, state = empty
  assert (y.shape, state.kv.shape) == ((0, 6, H, V), (0, H, M, V))


@pytest.mark.parametrize("block_size", [0, -1, True, 1.5])
def test_bad_block_size_is_refused(block_size):
  """Fails if the error comes from a reshape, or if True means 1."""
  args, _ = random_arguments(6, "float32")
  message = f"block_size must be a positive integer, got {block_size!r}$"
  with pytest.raises(ValueError, match=message):
    chunked_linear_attention(*args, block_size=block_size)
