"""Softmax attention against `jax.nn`, and the same block by block."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slim.kernels import chunked_softmax_attention, softmax_attention
from tests.helpers import assert_gradients_close, pairwise
from tests.kernels.softmax.cases import (
  DEFINITION,
  SIZES,
  TOLERANCES,
  assert_same,
  by_jax,
  in_blocks,
  make_inputs,
  value_and_gradients,
)

KINDS = [
  "plain",
  "causal",
  "offset",
  "window",
  "causal window",
  "bias",
  "bias of keys",
  "mask",
  "all",
  "functions",
  "dropout",
  "offsets",
]


@pytest.mark.parametrize(
  "kind",
  [
    "plain",
    "causal",
    "window",
    "causal window",
    "bias",
    "bias of keys",
    "mask",
    "scale",
  ],
)
def test_definition_equals_jax(x64, kind):
  """Fails if the definition, the reference of all other tests, is wrong."""
  inputs, mask, cts = make_inputs((2, 7, 9, 4, 2, 8, 8))
  # JAX attends to all keys if a query sees none, and does not differentiate
  # the log-sum-exp.
  mask[..., 0] = True
  cts[1][:] = 0
  found = value_and_gradients(DEFINITION, kind, inputs, mask, cts, "float64")
  right = value_and_gradients(by_jax, kind, inputs, mask, cts, "float64")
  # JAX computes a part in float32.
  assert_gradients_close(found, right, 1e-6)


@pytest.mark.parametrize(
  "case",
  pairwise(
    kind=KINDS,
    form=[
      in_blocks(4, 3),
      in_blocks(5, 16),
      in_blocks(64, 64),
      in_blocks(3, 4, "remat"),
    ],
    # B, T, S, H, G, K, V.
    sizes=[
      SIZES,
      (1, 7, 19, 2, 2, 4, 3),
      (2, 16, 8, 3, 1, 1, 1),
    ],
    dtype=list(TOLERANCES),
  ),
)
def test_blocks_equal_the_definition(x64, case):
  """Fails if blocks compute another value or gradient."""
  assert_same(case["form"], case["kind"], case["sizes"], case["dtype"])


@settings(max_examples=5)
@given(
  sizes=st.tuples(
    st.integers(1, 2),
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([2, 4]),
    st.sampled_from([1, 2]),
    st.integers(1, 5),
    st.integers(1, 5),
  ),
  blocks=st.tuples(st.integers(1, 320), st.integers(1, 320)),
  kind=st.sampled_from(KINDS),
  seed=st.integers(0, 5),
)
def test_any_lengths_and_blocks(sizes, blocks, kind, seed):
  """Fails if some length is cut or padded wrongly."""
  # Avoids thousands of tiny blocks.
  blocks = [max(b, n // 8) for b, n in zip(blocks, sizes[1:3], strict=True)]
  with jax.enable_x64(True):
    assert_same(in_blocks(*blocks), kind, sizes, "float64", seed)


def test_query_without_keys(x64):
  """Fails if y is NaN or the mean of all values, or a gradient is NaN."""
  inputs, mask, cts = make_inputs(SIZES)
  mask[:, :, 2] = False
  for form in (
    DEFINITION,
    in_blocks(4, 3),
    in_blocks(3, 4, "remat"),
  ):
    (y, _, sees), (gradients,) = value_and_gradients(
      form, "mask", inputs, mask, cts, "float64"
    )
    assert not sees[:, 2].any()
    assert not y[:, 2].any()
    assert not gradients["q"][:, 2].any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores(size):
  """Fails if the exponential overflows, or a whole row underflows."""
  inputs, mask, cts = make_inputs((1, 9, 9, 2, 2, 3, 3))
  inputs["bias"] = inputs["bias"] + size
  inputs["q"] = 1e4 * inputs["q"]
  found = value_and_gradients(
    in_blocks(4, 4), "bias", inputs, mask, cts, "float32"
  )
  assert found[0][2].all()  # Each query sees a key.
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_drop_in_for_jax():
  """Fails if it cannot replace `jax.nn.dot_product_attention`."""
  inputs, mask, _ = make_inputs((2, 5, 7, 4, 2, 3, 3))
  q, k, v, bias = (
    jnp.asarray(inputs[name], jnp.float32) for name in ("q", "k", "v", "bias")
  )
  mask[..., 0] = True
  by_them = functools.partial(jax.nn.dot_product_attention, scale=0.3)
  right = jax.jit(by_them)(q, k, v, bias, mask)
  for attend in (softmax_attention, chunked_softmax_attention):
    y = jax.jit(functools.partial(attend, scale=0.3))(q, k, v, bias, mask)
    np.testing.assert_allclose(y, right, atol=1e-6)
