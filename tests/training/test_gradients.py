"""Every method of differentiation gives the gradient of every other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim.certify.gradient_error import relative_errors
from slim.kernels import POLICIES, scan
from slim.models import create_model
from slim.training.gradients import (
  COMPILER_OPTIONS,
  make_step,
  make_value_and_grad,
)
from slim.types import Batch
from tests.helpers import (
  AS_USERS,
  assert_gradients_close,
  each_value,
  init_params,
  pairwise,
)
from tests.models.small import (
  KEYS,
  SIZES,
  batch_of,
  create,
  gradient_of,
  params_of,
  temporary_bytes,
)

T = 190
VOCAB_SIZE = SIZES["vocab_size"]


@functools.cache
def full(**settings):
  """The sums and the gradient to find, by plain differentiation."""
  model = create(**settings)
  return gradient_of(model, method="full")(params_of(model), batch_of(T), KEYS)


def slim(chunk_size, policy="rewind", **settings):
  """The same by slim."""
  model = create(**settings)
  run = gradient_of(model, method="slim", chunk_size=chunk_size, policy=policy)
  return run(params_of(model), batch_of(T), KEYS)


def assert_same(found, expected, tol=1e-12):
  """Compares sums and gradients."""
  np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
  assert_gradients_close(found[1], expected[1], tol)


# Models of these four have a program for each method, which most tests share.
DROPS = {"dropout": 0.1}
NORMED = {
  "feature_map": "relu",
  "qk_norm": True,
  "norm": "pre",
  "num_layers": 2,
}
PROJECTED = {
  "feature_map": "elu_plus_one",
  "norm": "post",
  "output_projection": True,
}
RANDOM = {
  "feature_map": "favor",
  "num_features": 20,
  "qk_norm": True,
  "norm": "pre",
}


@pytest.mark.parametrize(
  ("policy", "chunk_size", "settings"),
  [
    ("rewind", 95, DROPS),
    ("rewind", 7, NORMED),  # Of which the first chunk has a token only.
    ("sqrt", 10, PROJECTED),
    ("store", 95, PROJECTED),
    ("rewind", 38, RANDOM),
  ],
)
def test_slim_is_full(x64, policy, chunk_size, settings):
  """The one claim of the method: the gradient is exact."""
  assert_same(slim(chunk_size, policy, **settings), full(**settings))


def test_slim_of_reversible_layers_is_full(x64):
  """The layers would be undone, or the chunks, as if there were only one."""
  settings = {"reversible": True}
  assert_same(slim(95, **settings), full(**settings), 1e-10)


@pytest.mark.slow
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
def test_slim_is_full_for_all_settings(x64, case):
  """As above, for every C."""
  case = dict(case)
  how = {name: case.pop(name) for name in ("chunk_size", "policy")}
  assert_same(slim(**how, **case), full(**case))


@pytest.mark.slow
@pytest.mark.parametrize(
  ("policy", "qk_norm"),
  [("store", False), ("sqrt", False), ("sqrt", True), ("rewind", True)],
)
def test_slim_is_full_with_random_features(x64, policy, qk_norm):
  """Features would be drawn anew, or depend on how the sequence is cut."""
  settings = RANDOM | {"qk_norm": qk_norm, "num_layers": 2}
  assert_same(slim(7, policy, **settings), full(**settings))


def test_remat_is_full(x64):
  """The baseline would be another model's."""
  model = create(**DROPS)
  remat = gradient_of(model, method="remat")
  found = remat(params_of(model), batch_of(T), KEYS)
  assert_same(found, full(**DROPS))


@pytest.mark.parametrize(
  "how", [{"method": "full"}, {"method": "slim", "chunk_size": 95}], ids=str
)
def test_rows_are_alone(x64, how):
  """One sequence would be trained by the masks or tokens of its neighbour."""
  model = create(**DROPS)
  run = functools.partial(gradient_of(model, **how), params_of(model))
  batch, other_keys = batch_of(T), jax.random.split(jax.random.key(99), 2)
  sums, gradient = run(batch, KEYS)

  def of_row(row, inputs, keys):
    """The gradient of a row beside another, which has no weight."""
    weights = np.zeros_like(batch.weights)
    weights[row] = batch.weights[row]
    return run(Batch(inputs, batch.targets, weights), keys)

  for row in range(2):
    inputs = np.full_like(batch.inputs, 3)
    inputs[row] = batch.inputs[row]
    found = of_row(row, inputs, other_keys.at[row].set(KEYS[row]))
    assert_same(found, of_row(row, batch.inputs, KEYS))
  # Another place in the batch is no other mask.
  turned = jax.tree.map(lambda x: x[::-1], batch)
  assert_same(run(turned, KEYS[::-1]), (sums, gradient))
  # Nor are all masks one: comparisons would be of runs without dropout.
  errors = relative_errors(run(batch, KEYS[::-1])[1], gradient)
  assert min(errors.values()) > 1e-2


@pytest.mark.parametrize(
  "how", [{"method": "full"}, {"method": "slim", "chunk_size": 95}], ids=str
)
def test_targets_without_weight_do_not_count(x64, how):
  """The loss on the second half of a copy would learn from the first."""
  model = create(**DROPS)
  run = gradient_of(model, **how)
  params, batch = params_of(model), batch_of(T)
  expected = run(params, batch, KEYS)
  unseen = batch.weights == 0
  assert unseen.any()
  other = np.where(unseen, (batch.targets + 1) % VOCAB_SIZE, batch.targets)
  found = run(params, batch._replace(targets=other), KEYS)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("policy", POLICIES)
def test_sums_that_are_undone_are_compensated(policy):
  """In float32, long sequences would have the gradients of other states."""
  model, found = create(dtype="float32"), []

  def init_state(batch_size, *, compensated=False):
    found.append(compensated)
    return model.init_state(batch_size, compensated=compensated)

  spied = model._replace(init_state=init_state)
  value_and_grad = make_value_and_grad(
    spied, method="slim", chunk_size=5, policy=policy
  )
  params = jax.eval_shape(model.init, jax.random.key(0))
  found.clear()  # That of an abstract one, which says what it remembers.
  jax.eval_shape(value_and_grad, params, batch_of(10))
  assert found == [policy == "rewind"]


@pytest.mark.slow
def test_without_jit(x64):
  """Debugging, one operation at a time, would be of something else."""
  model = create()
  value_and_grad = make_value_and_grad(model, method="slim", chunk_size=95)
  assert_same(value_and_grad(params_of(model), batch_of(T), KEYS), full())


@functools.cache
def copying_case():
  """A batch to copy, of many chunks, in float32."""
  words = np.random.default_rng(0).integers(0, 11, (2, 500))
  tokens = np.tile(words, 2).astype(np.int32)
  weights = np.ones((2, 999), np.float32)
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


def rounding_model(dtype, features):
  """A model of two layers whose rounding is measured."""
  sizes = {"vocab_size": 11, "num_layers": 2, "mlp_width": 32}
  return create(norm="pre", dtype=dtype, **sizes | FEATURES[features])


def as_users(model, **how):
  """Its `value_and_grad` with the roundings that users get."""
  return jax.jit(
    make_value_and_grad(model, **how),
    compiler_options=COMPILER_OPTIONS | AS_USERS,
  )


@functools.cache
def float32_params(trained, features="square"):
  """Parameters as initialised, or after 60 steps of Adam."""
  model = rounding_model("float32", features)
  params = init_params(model)
  if not trained:
    return params
  optimizer = optax.adam(1e-2)

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state

  state = optimizer.init(params)
  by_full = as_users(model, method="full")
  for _ in range(60):
    _, gradients = by_full(params, copying_case())
    params, state = update(params, state, gradients)
  return params


@functools.cache
def float32_right(trained, features="square"):
  """The gradient of the same weights in float64."""
  with jax.enable_x64(True):
    run = gradient_of(rounding_model("float64", features), method="full")
    params = jax.tree.map(
      lambda x: jnp.asarray(x, jnp.float64), float32_params(trained, features)
    )
    return run(params, copying_case())[1]


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
  model = rounding_model("float32", features)
  full = as_users(model, method="full")
  slim = as_users(model, method="slim", chunk_size=chunk_size, policy=policy)
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
  model = rounding_model("bfloat16", features)
  params = float32_params(True, features)
  store, rewind = (
    relative_errors(
      as_users(model, method="slim", chunk_size=16, policy=policy)(
        params, copying_case()
      )[1],
      float32_right(True, features),
    )
    for policy in ("store", "rewind")
  )
  # Seen are 1.0 to 1.2; and up to 70 where some roundings are left out.
  ratios = {name: rewind[name] / store[name] for name in store}
  assert max(ratios.values()) <= 1.5, ratios


def wide(num_layers=1):
  """A model of width 128, of which activations are what most memory is for."""
  return create_model(
    vocab_size=11, width=128, num_layers=num_layers, num_heads=2, mlp_width=512
  )


@functools.cache
def bytes_a_token(length=2**20, **how):
  """The activations, in which at such a length only what grows with it is."""
  return temporary_bytes(wide(), length, **how) / length


def test_memory_of_rewind_does_not_grow():
  """Any length would be any length that fits."""
  assert bytes_a_token(method="slim", chunk_size=64) <= 16


# Bytes: two heads, each with sums of 64 x 64 and of 64 features.
STATE = 2 * (64 * 64 + 64) * 4


def test_memory_of_store_grows_by_the_states():
  """The baseline would be weakened, or no longer hold a state a chunk."""
  growth = bytes_a_token(method="slim", chunk_size=128, policy="store")
  assert STATE / 128 <= growth <= STATE / 128 + 32


def test_memory_of_sqrt_grows_by_the_root():
  """It would keep as many states as store, for more work."""
  growth = bytes_a_token(method="slim", chunk_size=64, policy="sqrt")
  states = 2 * 128 * STATE / 2**20  # Of 16,384 chunks; and the batch, copied.
  assert states <= growth <= states + 32


def test_memory_of_full_grows_with_all_activations():
  """The other two would be measured against nothing, or against too much."""
  # At least the inputs of 6 linear maps, in float32; about 34 x 128 are seen.
  assert (5 * 128 + 512) * 4 < bytes_a_token(4096, method="full") < 40 * 128 * 4


# Up to jax 0.11.0 the CPU compiler undoes remat, unless it is told not to.
KEEP_REMAT = {}
if jax.__version_info__ < (0, 11, 1):
  KEEP_REMAT["xla_disable_hlo_passes"] = "cse_barrier_expander"


def test_memory_of_remat_grows_by_layer_outputs():
  """A baseline that saves nothing would make the others look good."""
  three = temporary_bytes(wide(3), 4096, KEEP_REMAT, method="remat")
  one = 4096 * bytes_a_token(4096, method="full")
  # A layer has an output of 4096 x 128, and beside it the gradient of its
  # parameters; all of its activations are about 34 times the output.
  assert (three - one) / 2 <= 4 * (4096 * 128 * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("policy", "states"),
  # Of 64 and 1024 chunks: none, all, and 2 x 8 and 2 x 32 of them.
  [("rewind", 0), ("store", 1024 - 64), ("sqrt", 2 * 32 - 2 * 8)],
)
def test_growth_of_what_users_run(policy, states):
  """As above, of programs compiled for speed and of two layers."""
  lengths = 4096, 65_536
  how = {"method": "slim", "chunk_size": 64, "policy": policy}
  short, long = (temporary_bytes(wide(2), n, AS_USERS, **how) for n in lengths)
  kept = states * 2 * STATE
  most = 16 if policy == "rewind" else 32  # A token: the batch, copied.
  assert kept <= long - short <= kept + most * (lengths[1] - lengths[0])


@pytest.mark.slow
def test_memory_of_remat_at_many_layers():
  """As above, of programs compiled for speed."""
  few, many = (
    temporary_bytes(wide(n), 4096, AS_USERS | KEEP_REMAT, method="remat")
    for n in (2, 8)
  )
  assert (many - few) / 6 <= 4 * (4096 * 128 * 4)


@pytest.mark.slow
def test_memory_of_rewind_is_that_of_one_chunk():
  """The first chunk's activations would be kept while the others are walked."""
  # A first chunk of one token keeps next to nothing.
  whole, short = (
    temporary_bytes(wide(2), n, AS_USERS, method="slim", chunk_size=512)
    for n in (4096, 4096 - 511)
  )
  assert whole <= 1.3 * short


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_memory_of_a_short_first_chunk(policy):
  """Fails if a short first chunk takes more memory than a whole one."""
  how = {"method": "slim", "chunk_size": 256, "policy": policy}
  whole, short = (
    temporary_bytes(wide(3), n, AS_USERS, **how) for n in (2048, 2000)
  )
  assert short <= 1.02 * whole


@pytest.mark.slow
def test_scan_does_not_keep_activations_of_a_short_first_chunk():
  """Fails if XLA merges the recomputation of that chunk with its forward pass.

  It has done so for `jax.checkpoint` outside of a loop: 44 MiB, not 36.
  """
  model = create_model(
    vocab_size=256, width=256, num_layers=3, num_heads=4, mlp_width=1024
  )
  params = jax.eval_shape(model.init, jax.random.key(0))

  def loss(params, batch):
    step, _ = make_step(model, None)
    _, sums = scan(step, params, model.init_state(1), batch, chunk_size=256)
    return sums.nll.sum()

  def temporary(length):
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    weights = jax.ShapeDtypeStruct((1, length), jnp.float32)
    lowered = jax.jit(jax.grad(loss)).lower(
      params, Batch(tokens, tokens, weights)
    )
    return lowered.compile(AS_USERS).memory_analysis().temp_size_in_bytes

  # The gradient of that chunk is an array of its own.
  gradient = sum(4 * x.size for x in jax.tree.leaves(params))
  assert temporary(2000) <= temporary(2048) + 1.1 * gradient


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
    ValueError, match="policy must be 'sqrt' or 'store' for a"
  ):
    make_value_and_grad(model, method="slim", chunk_size=7, policy="rewind")
