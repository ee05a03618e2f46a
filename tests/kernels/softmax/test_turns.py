"""Heads that take turns on a CPU compute what all heads compute at once."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import chunked_softmax_attention
from slim.kernels.softmax import _turns
from tests.helpers import assert_gradients_close
from tests.kernels.softmax import cases
from tests.kernels.softmax.cases import (
  DEFINITION,
  assert_same,
  in_blocks,
  make_inputs,
)

SIZES = (2, 13, 11, 4, 2, 3, 5)  # B, T, S, H, G, K, V.


@pytest.fixture
def turns(monkeypatch):
  """Counts the attentions whose heads take turns, however small they are."""
  monkeypatch.setattr(_turns, "_ENOUGH", 1)
  # What other tests have compiled takes no turns.
  monkeypatch.setattr(cases, "compiled", cases.compiled.__wrapped__)
  counted = []
  can_take_turns = _turns._can_take_turns

  def count(*args):
    counted.append(can_take_turns(*args))
    return counted[-1]

  monkeypatch.setattr(_turns, "_can_take_turns", count)
  return counted


@pytest.mark.parametrize("kind", ["causal window", "scale"])
def test_heads_in_turn_equal_the_definition(x64, turns, kind):
  """Fails if a head reads or writes what is another's."""
  assert_same(in_blocks(4, 3), kind, SIZES, "float64")
  assert turns == [True, True]  # Forward and backward.


@pytest.mark.parametrize("kind", ["functions", "dropout", "bias", "offsets"])
def test_heads_that_differ_take_no_turns(x64, turns, kind):
  """Fails if a head gets the mask, bias or dropout of another."""
  assert_same(in_blocks(4, 3), kind, SIZES, "float64")
  assert turns == [False, False]


def test_shared_bias_and_mask(x64, turns):
  """Fails if the gradient of a shared bias misses a head or a sequence."""
  inputs, mask, cts = make_inputs(SIZES)
  inputs |= {"bias": inputs["bias"][:, :1], "slope": inputs["slope"][0]}

  @functools.partial(jax.jit, static_argnums=0)
  def gradients(form, inputs):
    def outputs(inputs):
      return form(
        *(inputs[name] for name in "qkv"),
        inputs["bias"],
        mask[:1],
        mask_fn=lambda i, j: (i + j) % 7 > 0,
        bias_fn=lambda slope, i, j: -slope * abs(i - j),
        bias_params=inputs["slope"],
      )

    return jax.vjp(outputs, inputs)[1](jax.tree.map(jnp.asarray, cts))

  found, right = (
    gradients(form, jax.tree.map(jnp.asarray, inputs))
    for form in (in_blocks(4, 3), DEFINITION)
  )
  assert_gradients_close(found, right, 1e-12)
  assert turns == [True, True]


@pytest.mark.parametrize(
  ("platform", "heads_at_once"), [("cpu", 1), ("cuda", 8), ("tpu", 8)]
)
def test_only_cpus_take_turns(platform, heads_at_once):
  """Fails if an accelerator computes one head after the other."""
  x = jax.ShapeDtypeStruct((1, 1024, 8, 16), jnp.float32)
  traced = jax.jit(chunked_softmax_attention).trace(x, x, x)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  products = [line for line in text.splitlines() if "dot_general" in line]
  assert len(products) == 2
  for line in products:
    assert f"-> tensor<1x{heads_at_once}x512x" in line


@pytest.mark.parametrize(
  ("heads", "settings"),
  [
    (1, dict(is_causal=True)),
    (2, dict(is_causal=True)),
    (2, dict(mask_fn=lambda i, j: (i + j) % 3 > 0)),
    (2, dict(is_causal=True, backward="remat")),
  ],
  ids=["one head", "causal", "mask_fn", "remat"],
)
def test_loops_of_layers_store_no_masks(turns, heads, settings):
  """Fails if `jax.checkpoint` keeps the masks of all blocks: O(T·S)."""

  def loss(x, other):
    def layer(x, _):
      y = chunked_softmax_attention(
        x, other, x, q_block_size=16, k_block_size=16, **settings
      )
      y += chunked_softmax_attention(
        other, x, x, q_block_size=16, k_block_size=16, **settings
      )
      return y, None

    layers = jax.checkpoint(lambda x: jax.lax.scan(layer, x, length=2)[0])
    return layers(x).sum()

  x = jax.ShapeDtypeStruct((1, 128, heads, 8), jnp.float32)
  program = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, x))
  sizes = re.findall(r"(?:bool|f32)\[([0-9,]+)\]", program)
  # What the two layers read.
  assert max(math.prod(map(int, n.split(","))) for n in sizes) <= 2 * x.size
  takes_turns = heads > 1 and "backward" not in settings
  assert all(turns) and bool(turns) == takes_turns


def test_vmap_slices_blocks():
  """Fails if indices of blocks get a batch axis, and slices become gathers."""
  x = jax.ShapeDtypeStruct((3, 1, 64, 2, 8), jnp.float32)

  def gradient(x):
    attend = functools.partial(
      chunked_softmax_attention, is_causal=True, q_block_size=16
    )
    return jax.grad(lambda x: attend(x, x, x).sum())(x)

  program = jax.jit(jax.vmap(gradient)).lower(x).compile().as_text()
  assert " while(" in program
  assert " gather(" not in program and " scatter(" not in program


def test_memory_of_many_heads():
  """Fails if the gradient holds blocks of scores of all heads."""
  x = jax.ShapeDtypeStruct((1, 4096, 8, 64), jnp.float32)

  @jax.jit
  def gradient(q, k, v, y_ct):
    return jax.vjp(chunked_softmax_attention, q, k, v)[1](y_ct)

  memory = gradient.lower(x, x, x, x).compile().memory_analysis()
  # y and the log-sum-exp are kept: 8.1 MiB.
  assert memory.temp_size_in_bytes <= 20 * 2**20
