"""Every method of differentiation gives the gradient of every other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.errors import relative_errors
from slim.gradients import COMPILER_OPTIONS, make_value_and_grad
from slim.kernels import POLICIES
from slim.models import create_model
from slim.types import Batch
from tests.helpers import (
  assert_gradients_close,
  each_value,
  init_params,
  pairwise,
)

B, T, VOCAB_SIZE = 2, 190, 11
KEYS = jax.random.split(jax.random.key(5), B)


def create(**settings):
  """A small model of two layers and two heads."""
  sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 32}
  return create_model(
    vocab_size=VOCAB_SIZE,
    constant_key=jax.random.key(7),
    **{**sizes, **settings},
  )


@functools.cache
def float64_params(**settings):
  """Parameters of a model in float64."""
  return init_params(create(dtype="float64", **settings))


def float64_case(dropout=0.0, **settings):
  """A model in float64, and its parameters."""
  model = create(dtype="float64", dropout=dropout, **settings)
  # Nothing else has a part in the parameters.
  names = ("qk_norm", "output_projection")
  params = float64_params(**{x: settings.get(x, False) for x in names})
  return model, params


@functools.cache
def full_float64(length=T, dropout=0.0, **settings):
  """The sums and the gradient to find, by plain differentiation."""
  model, params = float64_case(dropout=dropout, **settings)
  return run(model, params, make_batch(length), method="full")


def run(model, params, batch, keys=KEYS, **how):
  """Compiles and differentiates once."""
  value_and_grad = make_value_and_grad(model, **how)
  return jax.jit(value_and_grad)(params, batch, keys)


def make_batch(length=T):
  """Any tokens, and weights some of which are zero."""
  random = np.random.default_rng(0)
  tokens = random.integers(0, VOCAB_SIZE, (B, T + 1), dtype=np.int32)
  weights = random.random((B, T), dtype=np.float32)
  weights[:, 40:60] = weights[0, :5] = 0
  batch = Batch(tokens[:, :-1], tokens[:, 1:], weights)
  return jax.tree.map(lambda x: x[:, :length], batch)


def assert_same(found, expected):
  """Compares sums and gradients."""
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
  assert_gradients_close(found[1], expected[1], 1e-12)


@pytest.mark.parametrize(
  "case",
  pairwise(
    chunk_size=[1, 7, 64, 95, T, T + 5],
    policy=POLICIES,
    feature_map=["square", "relu", "elu_plus_one"],
    qk_norm=[False, True],
    norm=["output", "pre", "post"],
    output_projection=[False, True],
    dropout=[0.0, 0.1],
  ),
)
def test_slim_is_full(x64, case):
  """The one claim of the method: the gradient is exact, for every C."""
  case = dict(case)
  how = {name: case.pop(name) for name in ("chunk_size", "policy")}
  model, params = float64_case(**case)
  found = run(model, params, make_batch(), method="slim", **how)
  assert_same(found, full_float64(**case))


@pytest.mark.parametrize(
  ("policy", "qk_norm"),
  [("store", False), ("sqrt", False), ("sqrt", True), ("rewind", True)],
)
def test_slim_is_full_with_random_features(x64, policy, qk_norm):
  """Features would be drawn anew, or depend on how the sequence is cut."""
  settings = {
    "feature_map": "favor",
    "num_features": 20,
    "qk_norm": qk_norm,
    "norm": "pre",
  }
  model, params = float64_case(**settings)
  found = run(
    model, params, make_batch(), method="slim", chunk_size=7, policy=policy
  )
  assert_same(found, full_float64(**settings))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_remat_is_full(x64, dropout):
  """The baseline would be another model's."""
  model, params = float64_case(dropout=dropout)
  found = run(model, params, make_batch(), method="remat")
  assert_same(found, full_float64(dropout=dropout))


def test_dropout_changes_the_gradient(x64):
  """Comparisons with dropout would compare runs without it."""
  (_, dropped), (_, kept) = full_float64(dropout=0.1), full_float64()
  assert min(relative_errors(dropped, kept).values()) > 1e-2


def test_rows_are_alone(x64):
  """One sequence would be trained by the masks or tokens of its neighbour."""
  model, params = float64_case(dropout=0.1)
  batch = make_batch()
  batch.weights[1] = 0
  alone = jax.tree.map(lambda x: x[:1], batch)
  expected = run(model, params, alone, KEYS[:1], method="full")
  batch.inputs[1] = 3
  other = jnp.stack([KEYS[0], jax.random.key(99)])
  found = run(model, params, batch, other, method="slim", chunk_size=64)
  assert_same(found, expected)


@pytest.mark.parametrize("method", ["full", "slim"])
def test_targets_without_weight_do_not_count(x64, method):
  """The loss on the second half of a copy would learn from the first."""
  model, params = float64_case()
  chunk_size = 64 if method == "slim" else None
  value_and_grad = jax.jit(
    make_value_and_grad(model, method=method, chunk_size=chunk_size),
  )
  batch = make_batch()
  expected = value_and_grad(params, batch)
  unseen = batch.weights == 0
  other = np.where(unseen, (batch.targets + 1) % VOCAB_SIZE, batch.targets)
  found = value_and_grad(params, batch._replace(targets=other))
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_without_jit(x64):
  """Debugging, one operation at a time, would be of something else."""
  model, params = float64_case()
  value_and_grad = make_value_and_grad(model, method="slim", chunk_size=95)
  assert_same(value_and_grad(params, make_batch()), full_float64())


@functools.cache
def copying_case():
  """A batch to copy, of many chunks, in float32."""
  words = np.random.default_rng(0).integers(0, VOCAB_SIZE, (B, 500))
  tokens = np.tile(words, 2).astype(np.int32)
  weights = np.ones((B, 999), np.float32)
  weights[:, :499] = 0
  return Batch(tokens[:, :-1], tokens[:, 1:], weights)


FEATURES = {
  "square": {},
  # Heads of 64, as their width is what the exponents grow with.
  "favor": {
    "feature_map": "favor",
    "num_features": 128,
    "qk_norm": True,
    "width": 128,
  },
}


@functools.cache
def float32_methods(features="square"):
  """A float32 model and its full gradient as a compiled function."""
  model = create(norm="pre", **FEATURES[features])
  return model, jax.jit(make_value_and_grad(model, method="full"))


@functools.cache
def float32_params(trained, features="square"):
  """Parameters as initialised, or after 60 steps of Adam."""
  model, full = float32_methods(features)
  params = init_params(model)
  if not trained:
    return params
  optimizer = optax.adam(1e-2)

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  for _ in range(60):
    _, gradients = full(params, copying_case())
    params, state = update(params, state, gradients)
  return params


@functools.cache
def float32_right(trained, features="square"):
  """The gradient of the same weights in float64."""
  with jax.enable_x64(True):
    model = create(norm="pre", dtype="float64", **FEATURES[features])
    params = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), float32_params(trained, features)
    )
    return run(model, params, copying_case(), None, method="full")[1]


@pytest.mark.slow
@pytest.mark.parametrize(
  "case",
  each_value(
    policy=POLICIES, chunk_size=[64, 95, 999], features=list(FEATURES)
  ),
)
def test_float32_is_as_exact_as_full(case):
  """Rounding would grow with the length, as plain subtraction makes it."""
  policy, chunk_size, features = case.values()
  model, full = float32_methods(features)
  slim = jax.jit(
    make_value_and_grad(
      model, method="slim", chunk_size=chunk_size, policy=policy
    )
  )
  for trained in (False, True):
    params = float32_params(trained, features)
    right = float32_right(trained, features)
    _, by_full = full(params, copying_case())
    _, by_slim = slim(params, copying_case())
    assert_gradients_close(by_slim, by_full, 5e-6)
    floor = 2.5e-6  # Where full is right by luck: 1.6e-6 has been seen.
    allowed = relative_errors(by_full, right)
    for name, error in relative_errors(by_slim, right).items():
      assert error <= max(1.5 * allowed[name], floor), (name, trained)


@pytest.mark.slow
@pytest.mark.parametrize(
  "features", ["square", pytest.param("favor", marks=pytest.mark.full)]
)
def test_bfloat16_rewinds_as_exactly_as_it_stores(features):
  """Chunks would be undone with other roundings than they were done with."""
  model = create(norm="pre", dtype="bfloat16", **FEATURES[features])
  params = float32_params(True, features)
  store, rewind = (
    relative_errors(
      jax.jit(
        make_value_and_grad(model, method="slim", chunk_size=16, policy=policy),
        compiler_options=COMPILER_OPTIONS,
      )(params, copying_case())[1],
      float32_right(True, features),
    )
    for policy in ("store", "rewind")
  )
  # Seen are 1.0 to 1.2; and up to 70 where some roundings are left out.
  ratios = {name: rewind[name] / store[name] for name in store}
  assert max(ratios.values()) <= 1.5, ratios


def temporaries(model, length, compiler_options=(), **how):
  """Bytes of activations that one value_and_grad needs, compiled, not run."""
  params = jax.eval_shape(model.init, jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
  weights = jax.ShapeDtypeStruct((1, length), jnp.float32)
  lowered = jax.jit(make_value_and_grad(model, **how)).lower(
    params, Batch(tokens, tokens, weights)
  )
  # What LLVM makes of the program does not change what is assigned to it.
  options = {"xla_backend_optimization_level": 0, **dict(compiler_options)}
  compiled = lowered.compile(options)
  return compiled.memory_analysis().temp_size_in_bytes


def bytes_a_token(**how):
  """Growth of the activations, at C = 64 and D = 128 with two layers."""
  model = create(width=128, mlp_width=512)
  short, long = (temporaries(model, n, **how) for n in (4096, 65_536))
  return (long - short) / (65_536 - 4096)


def test_memory_of_rewind_does_not_grow():
  """Any length would be any length that fits."""
  assert bytes_a_token(method="slim", chunk_size=64) <= 16


def test_memory_of_rewind_is_that_of_one_chunk():
  """The first chunk's activations would be kept while the others are walked."""
  model = create(width=128, mlp_width=512)
  # A first chunk of one token keeps next to nothing.
  whole, short = (
    temporaries(model, n, method="slim", chunk_size=512)
    for n in (4096, 4096 - 511)
  )
  assert whole <= 1.3 * short


# Bytes: two layers of two heads, each with sums of 64 x 64 and of 64 features.
STATE = 2 * 2 * (64 * 64 + 64) * 4


def test_memory_of_store_grows_by_the_states():
  """The baseline would be weakened, or no longer hold a state a chunk."""
  growth = bytes_a_token(method="slim", chunk_size=64, policy="store")
  assert STATE / 64 <= growth <= STATE / 64 + 32


def test_memory_of_sqrt_grows_by_the_root():
  """It would keep as many states as store, for more work."""
  growth = bytes_a_token(method="slim", chunk_size=64, policy="sqrt")
  # Of 64 chunks 2 x 8 states, of 1024 chunks 2 x 32; and copies of the batch.
  states = (2 * 32 - 2 * 8) * STATE / (65_536 - 4096)
  assert states <= growth <= states + 32


def test_memory_of_full_grows_with_all_activations():
  """The other two would be measured against nothing."""
  # At least the inputs of 2 x 6 linear maps, in float32.
  assert bytes_a_token(method="full") > 2 * (5 * 128 + 512) * 4


def test_memory_of_remat_grows_by_layer_outputs():
  """A baseline that saves nothing would make the others look good."""
  # Up to jax 0.11.0 the CPU compiler undoes remat, unless it is told not to.
  older = jax.__version_info__ < (0, 11, 1)
  options = {"xla_disable_hlo_passes": "cse_barrier_expander"}
  few, many = (
    temporaries(
      create(width=128, mlp_width=512, num_layers=num_layers),
      4096,
      options if older else {},
      method="remat",
    )
    for num_layers in (2, 8)
  )
  # A layer has an output of 4096 x 128, and beside it the gradient of its
  # parameters; all of its activations are about 34 times the output.
  assert (many - few) / 6 <= 4 * (4096 * 128 * 4)


def test_unknown_method_is_refused():
  """A misspelt method would be found after minutes of compilation."""
  with pytest.raises(ValueError, match="method must be one of .*'slmi'"):
    make_value_and_grad(create(), method="slmi")


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
    make_value_and_grad(create(), method="slim", **how)
  assert str(error.value) == message


@pytest.mark.parametrize(
  "how",
  [
    pytest.param({"method": "full"}, marks=pytest.mark.full),
    {"method": "remat"},
    {"method": "slim", "chunk_size": 7, "policy": "rewind"},
    pytest.param(
      {"method": "slim", "chunk_size": 7, "policy": "store"},
      marks=pytest.mark.full,
    ),
    {"method": "slim", "chunk_size": 2, "policy": "sqrt"},
    pytest.param(
      {"method": "slim", "chunk_size": 99, "policy": "rewind"},
      marks=pytest.mark.full,
    ),
  ],
  ids=lambda how: "-".join(map(str, how.values())),
)
def test_data_parallel_gradients(x64, how):
  """Sequences could not be spread over devices, or the sums would differ."""
  model, params = float64_case(dropout=0.1)
  batch = make_batch(21)
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
  )(params, batch, KEYS)
  assert_same(found, full_float64(length=21, dropout=0.1))


def test_a_model_that_cannot_be_undone_is_refused():
  """It would end in a traceback from inside the kernel."""
  model = create()._replace(rewind=None)
  with pytest.raises(
    ValueError, match="policy must be 'sqrt' or 'store' for a"
  ):
    make_value_and_grad(model, method="slim", chunk_size=7, policy="rewind")
