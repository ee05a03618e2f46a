"""A gradient on many devices is that of one device."""

import jax
import numpy as np
import pytest

from slim.certify.gradient_error import largest_error
from slim.training.gradients import COMPILER_OPTIONS, start_state
from tests.helpers import AS_USERS, assert_gradients_close
from tests.kernels.meshes import SAME, TOKENS, make_mesh
from tests.models.small import create, params_of
from tests.scale.cases import Sharded, draw_batch, on_one_device

DROPS = {"dropout": 0.2}
SOFTMAX = {"attention": "chunked_softmax"}
ROTARY = {"attention": "softmax", "positions": "rotary", **DROPS}
LEARNED = {"positions": "learned", "max_positions": 37, "norm": "pre"}
HYBRID = {"attention": "gdn,softmax,local", "num_layers": 3, "num_kv_heads": 1}
REFORMER = {
  "attention": "local,lsh",
  "num_layers": 2,
  "reversible": True,
  "mlp_chunk_size": 8,
  "heads_at_once": 1,
}
RING = {
  "attention": "softmax",
  "num_layers": 2,
  "reversible": True,
  "stack_layers": True,
}

# Each is (mesh, rows, T, C) and what differs from "slim" with "rewind".
CASES = [
  ("data=2,fsdp=2,sequence=2", 8, 37, 5, DROPS | {"accumulation_steps": 2}),
  ("sequence=8", 1, 9, 1, {"policy": "store"}),
  ("data=2,sequence=4", 2, 37, None, {"method": "remat"} | ROTARY),
  ("sequence=2", 2, 37, 5, LEARNED),
]
SLOW_CASES = [
  ("data=8", 8, 21, 5, {}),
  ("fsdp=8", 8, 21, 5, {"policy": "store"}),
  ("sequence=8", 2, 101, 4, {"num_layers": 2} | DROPS),
  ("sequence=3", 2, 41, 4, {"policy": "sqrt", "num_layers": 2}),
  ("data=2,sequence=4", 4, 37, 4, {"accumulation_steps": 2} | DROPS),
  ("fsdp=2,sequence=4", 2, 37, 4, {"method": "full"}),
  ("fsdp=2,sequence=4", 2, 37, 4, {"method": "remat"}),
  ("sequence=4", 2, 37, 4, {"reversible": True, "num_layers": 2}),
  ("sequence=4", 2, 37, 4, {"stack_layers": True, "num_layers": 2}),
  ("sequence=4", 2, 37, 4, {"feature_map": "favor", "qk_norm": True}),
  ("sequence=8", 1, 8, 1, {}),
  ("data=2,fsdp=2,sequence=2", 8, 37, None, {"method": "full"} | SOFTMAX),
  ("sequence=4", 2, 37, None, {"method": "full"} | SOFTMAX | LEARNED),
  ("data=2,sequence=4", 4, 37, 4, LEARNED),
  ("data=4,fsdp=2", 8, 21, None, {"method": "full", "attention": "lsh"}),
  ("data=2,fsdp=2", 4, 21, 5, HYBRID),
  ("data=4", 4, 21, None, {"method": "full"} | REFORMER),
  ("sequence=4", 2, 37, 4, {"feature_map": "favor", "num_layers": 2}),
  ("sequence=4", 2, 37, None, {"method": "full", "num_kv_heads": 1} | RING),
]


def _name(x):
  return x if isinstance(x, str) else None


@pytest.mark.parametrize(
  ("mesh", "rows", "length", "chunk_size", "settings"),
  [*CASES, *(pytest.param(*x, marks=pytest.mark.slow) for x in SLOW_CASES)],
  ids=_name,
)
def test_devices_equal_one(mesh, rows, length, chunk_size, settings, x64):
  """Fails if devices sum twice, not at all, or other rows and tokens."""
  sharded = Sharded(mesh, rows, length, chunk_size, **settings)
  sums, gradients = sharded(draw_batch(rows, length))
  how = ("method", "policy", "accumulation_steps")
  model = {k: x for k, x in settings.items() if k not in how}
  right_sums, right = on_one_device(rows, length, **model)
  np.testing.assert_allclose(sums, right_sums, rtol=1e-12)
  # Keys have no gradient but rounding where softmax sees all shifts alike.
  largest = max(float(np.abs(x).max()) for x in jax.tree.leaves(right))
  for found, expected in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(right), strict=True
  ):
    size = max(float(np.abs(expected).max()), 1e-3 * largest)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * size)
  for x, shard in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(sharded.params), strict=True
  ):
    assert x.sharding == shard.sharding


def test_all_devices_measure_values_from_one(x64):
  """Fails if they start from other values than one device does."""
  model, plain = create(sequence_axis="sequence"), create()
  params = params_of(model)
  tokens = draw_batch(2, 8).inputs

  def start(params, tokens):
    state = start_state(model, params, tokens)
    return jax.tree.map(lambda x: x[None], state.layers)

  mesh = make_mesh(4)
  found = jax.jit(
    jax.shard_map(
      start,
      mesh=mesh,
      in_specs=(SAME, TOKENS),
      out_specs=jax.P("sequence"),
      check_vma=False,
    )
  )(params, tokens)
  _, after = jax.jit(plain.apply)(params, tokens[:, :1], plain.init_state(2))
  for state, right in zip(found, after.layers, strict=True):
    assert not np.any(state.sums.kv)
    for offset in state.value_offset:
      np.testing.assert_allclose(offset, right.value_offset, rtol=1e-12)


@pytest.mark.slow
def test_float32_is_as_exact_as_one_device():
  """Fails if sums over devices lose digits that one device keeps."""
  settings = {"dtype": "float32", "num_layers": 2}
  sums, gradients = Sharded("sequence=8", 2, 101, 4, **settings)(
    draw_batch(2, 101)
  )
  right_sums, right = on_one_device(2, 101, **settings)
  np.testing.assert_allclose(sums.nll, right_sums.nll, rtol=1e-6)
  assert_gradients_close(gradients, right, 5e-6)


@pytest.mark.slow
def test_bfloat16_is_as_exact_as_one_device():
  """Fails if a device rewinds another update than all have added."""
  options = AS_USERS | COMPILER_OPTIONS
  settings = {"dtype": "bfloat16", "width": 64}
  batch = draw_batch(2, 101)
  right = on_one_device(2, 101, width=64, dtype="float32")[1]
  errors = [
    largest_error(
      Sharded(mesh, 2, 101, 8, compiler_options=options, **settings)(batch)[1],
      right,
    )
    for mesh in ("sequence=4", "data=2")
  ]
  assert 0 < errors[0] <= 1.5 * errors[1]
