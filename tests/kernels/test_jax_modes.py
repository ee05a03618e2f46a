"""Every kernel works in every mode of JAX.

`CASES` calls each public name of `slim.kernels` with everything that a mode may
affect: masks, dropout, functions of the user, and arrays closed over.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from slim import kernels
from slim.kernels.support.dtypes import at_least_float32

B, T, H, K = 4, 5, 2, 3  # B and H can be sharded over two devices.


class Case(NamedTuple):
  """A call of one kernel."""

  uses: tuple[str, ...]  # Public names.
  fn: Callable[..., Any]  # Maps float arrays to a pytree of arrays.
  shapes: tuple[tuple[int, ...], ...]  # Of the arguments of `fn`.


CASES: dict[str, Case] = {}


def case(uses, *shapes):
  """Adds the function to `CASES`, by its name."""

  def add(fn):
    CASES[fn.__name__[1:]] = Case(tuple(uses.split()), fn, shapes)
    return fn

  return add


BTHK, BTNK, BT = (B, T, H, K), (B, T, 1, K), (B, T)


def keys():
  """Dropout keys, one per sequence."""
  return jax.random.split(jax.random.key(3), B)


@case("relu elu_plus_one square FEATURE_MAPS", BTHK)
def _feature_maps(x):
  return [fn(x) for fn in kernels.FEATURE_MAPS.values()]


@case(
  "sample_projection positive_random_features positive_random_query_features",
  BTHK,
)
def _random_features(x):
  w = kernels.sample_projection(jax.random.key(0), 4, K)
  return (
    kernels.positive_random_features(x, w),
    kernels.positive_random_query_features(x, w),
  )


@case(
  "PrefixSums init_prefix_sums token_sums add_sums rewind_prefix_sums",
  BTHK,
  BTHK,
)
def _prefix_sums(k, v):
  state = kernels.init_prefix_sums(B, H, K, K, compensated=True)
  update = kernels.token_sums(k, v, block_size=2)
  state = kernels.add_sums(state, update)
  return state, kernels.rewind_prefix_sums(state, update)


def _linear_attention(fn, q, k, v, **settings):
  q, k = kernels.relu(q), kernels.relu(k)
  dtype = at_least_float32(q.dtype, k.dtype, v.dtype)
  state = kernels.init_prefix_sums(B, H, K, K, dtype=dtype)
  y, state = fn(q, k, v, state, **settings)
  return y, *fn(q, k, v, state, **settings)


@case("parallel_linear_attention", BTHK, BTHK, BTHK)
def _parallel_linear_attention(*qkv):
  return _linear_attention(kernels.parallel_linear_attention, *qkv)


@case("recurrent_linear_attention", BTHK, BTHK, BTHK)
def _recurrent_linear_attention(*qkv):
  return _linear_attention(kernels.recurrent_linear_attention, *qkv)


@case("chunked_linear_attention", BTHK, BTHK, BTHK)
def _chunked_linear_attention(*qkv):
  fn = kernels.chunked_linear_attention
  return _linear_attention(fn, *qkv, block_size=2)


def softmax_settings(q, slope):
  """All terms that scores can have; some queries see no key."""
  lengths = jnp.array([5, 3, 1, 2], jnp.int32)
  # Sharded like the sequences, if they are.
  lengths += jnp.zeros_like(q.sum((1, 2, 3)), jnp.int32)
  return {
    "mask": jnp.arange(T)[:, None] != 2,
    "is_causal": True,
    "local_window_size": (3, 0),
    "mask_fn": lambda i, j: j < lengths[:, None, None, None],
    "bias_fn": lambda slope, i, j: (
      slope * -abs(i - j).astype(slope.dtype)[None]
    ),
    "bias_params": slope,
    "dropout_rate": 0.2,
    "dropout_keys": keys(),
  }


SOFTMAX = BTHK, BTNK, BTNK, (1, H, 1, T), (H, 1, 1)


@case("softmax_attention", *SOFTMAX)
def _softmax_attention(q, k, v, bias, slope):
  settings = softmax_settings(q, slope)
  return kernels.softmax_attention(q, k, v, bias, **settings)


@case("chunked_softmax_attention", *SOFTMAX)
def _chunked_softmax_attention(q, k, v, bias, slope, **blocks):
  return kernels.chunked_softmax_attention(
    q,
    k,
    v,
    bias,
    **softmax_settings(q, slope),
    q_block_size=2,
    k_block_size=3,
    **blocks,
  )


@case("chunked_softmax_attention", *SOFTMAX)
def _remat_softmax_attention(*args):
  return _chunked_softmax_attention(*args, backward="remat")


@case(
  "softmax_attention_and_lse chunked_softmax_attention_and_lse merge_attention",
  BTHK,
  BTNK,
  BTNK,
)
def _softmax_attention_and_lse(q, k, v):
  return kernels.merge_attention(
    [
      kernels.softmax_attention_and_lse(q, k, v, is_causal=True),
      kernels.chunked_softmax_attention_and_lse(
        q, k, v, local_window_size=1, q_block_size=2, k_block_size=2
      ),
    ]
  )


@case("attention_fn", BTHK, BTHK, BTHK, (1, H, 1, T))
def _attention_fn(q, k, v, bias):
  mask = jnp.arange(B)[:, None, None, None] != jnp.arange(T)[None, None, None]
  return kernels.attention_fn(
    q,
    k,
    v,
    bias,
    mask,
    dropout_rng=jax.random.key(4),
    dropout_rate=0.2,
    is_causal=True,
  )


def _lsh(qk, v, **settings):
  buckets = kernels.lsh_buckets(
    qk, jax.random.key(5), num_buckets=4, num_hashes=2
  )
  return kernels.lsh_attention(
    qk, v, buckets, chunk_size=2, is_causal=True, **settings
  )


@case("lsh_attention lsh_buckets", BTHK, BTHK)
def _lsh_attention(qk, v):
  return _lsh(qk, v, heads_at_once=1)


@case("lsh_attention lsh_buckets", BTHK, BTHK)
def _parallel_lsh_attention(qk, v):
  return _lsh(qk, v, rounds="parallel")


def _mlp(params, x):
  return jnp.tanh(x @ params[0]) @ params[1]


@case("chunked_map chunked_sum", (B, T, K), (K, 6), (6, K))
def _position_wise(x, *params):
  return (
    kernels.chunked_map(_mlp, params, x, chunk_size=2),
    kernels.chunked_sum(
      lambda params, x: _mlp(params, x).sum(), params, x, chunk_size=2
    ),
  )


def make_sum_over_tokens(shift):
  """Makes step and rewind: dropout, and a closure over an array."""

  def hidden(kernel, start, x):
    position = start + jnp.arange(x.shape[1], dtype=jnp.int32)
    kept = jax.vmap(
      lambda t: jax.random.bernoulli(jax.random.fold_in(keys()[0], t))
    )(position)
    h = jnp.tanh(x @ kernel + shift[None, None])
    return jnp.where(kept[None, :, None], h, 0)

  def add(total, h):
    sums = total[:, None] + jnp.cumsum(h, 1)
    return sums[:, -1], sums

  def step(kernel, state, x):
    total, start = state
    total, out = add(total, hidden(kernel, start, x))
    return (total, start + x.shape[1]), out

  def rewind(kernel, after, x):
    total, start = after[0], after[1] - x.shape[1]
    h = hidden(kernel, start, x)
    before = total - jax.lax.stop_gradient(h.sum(1))
    total, out = add(before, h)
    return (before, start), out, (total, after[1])

  return step, rewind


def _scan(policy, kernel, shift, state, x):
  step, rewind = make_sum_over_tokens(shift)
  (total, _), out = kernels.scan(
    step,
    kernel,
    (state, jnp.int32(0)),
    x,
    chunk_size=2,
    policy=policy,
    rewind=rewind,
  )
  return total, out


def _sum_and_grad(policy, *args):
  # Its result has no derivatives.
  kernel, shift, state, x = map(jax.lax.stop_gradient, args)
  step, rewind = make_sum_over_tokens(shift)

  def loss(out):
    return jnp.square(out.astype(jnp.float32)).sum()

  def summing_step(*args):
    state, out = step(*args)
    return state, loss(out)

  def summing_rewind(*args):
    before, out, after = rewind(*args)
    return before, loss(out), after

  return kernels.sum_and_grad(
    summing_step,
    kernel,
    (state, jnp.int32(0)),
    x,
    chunk_size=2,
    policy=policy,
    rewind=summing_rewind,
  )


for policy in kernels.POLICIES:
  for names, fn in (
    (("scan", "POLICIES"), _scan),
    (("sum_and_grad",), _sum_and_grad),
  ):
    CASES[f"{names[0]}_{policy}"] = Case(
      names,
      functools.partial(fn, policy),
      ((K, K), (K,), (B, K), (B, 7, K)),
    )


def _sublayer(gain, params, x, context, replay):
  if replay is None:
    replay = (x > 0).astype(jnp.int8)
  y = jnp.tanh(x @ params.astype(x.dtype)) * gain.astype(x.dtype)
  return y, context * 2, replay


REVERSIBLE = (2, K, K), (B, T, K), (B, T, K), (2, B), ()


@case("reversible", *REVERSIBLE)
def _reversible(w, one, two, contexts, gain):
  return kernels.reversible(
    [functools.partial(_sublayer, gain)] * 2, w, wide(one, two), contexts
  )


@case("reversible_scan", *REVERSIBLE)
def _reversible_scan(w, one, two, contexts, gain):
  return kernels.reversible_scan(
    [functools.partial(_sublayer, gain)] * 2,
    [w, w],
    wide(one, two),
    [contexts, contexts],
  )


def wide(*streams):
  """Makes streams float32 or wider."""
  return tuple(x.astype(at_least_float32(x.dtype)) for x in streams)


def _make_args(shapes, *dtypes):
  random = np.random.default_rng(0)
  return [
    jnp.asarray(random.normal(size=shape) * 0.5, dtype)
    for shape, dtype in zip(shapes, itertools.cycle(dtypes), strict=False)
  ]


def value_and_gradients(fn, *args):
  """The value of `fn`, and the gradients of a sum of its inexact leaves."""

  def loss(args):
    value = fn(*args)
    total = jnp.float32(0)
    for x in jax.tree.leaves(value):
      if jnp.issubdtype(x.dtype, jnp.floating):
        total += jnp.sin(x).astype(jnp.float32).sum()
    return total, value

  return jax.grad(loss, has_aux=True)(args)


def test_every_kernel_has_a_case():
  """Fails if a new kernel is missing in these tests."""
  used = {name for case in CASES.values() for name in case.uses}
  assert used == set(kernels.__all__)


@functools.cache
def _right(name):
  """What a case computes by itself on one device."""
  case = CASES[name]
  args = _make_args(case.shapes, "float32")
  return args, jax.jit(functools.partial(value_and_gradients, case.fn))(*args)


def _call(fn, *args):
  """Runs a function eagerly."""
  return fn(*args)


def _slow(*values):
  return pytest.param(values, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  "dtypes", [("bfloat16",), _slow("float16"), _slow("float32")]
)
@pytest.mark.parametrize(
  # Eager calls take minutes, and trace the same operations.
  "run",
  [jax.eval_shape, pytest.param(_call, marks=pytest.mark.full)],
)
def test_strict_promotion(name, dtypes, run):
  """Fails if a kernel mixes dtypes or ranks implicitly."""
  case = CASES[name]
  with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
    run(
      functools.partial(value_and_gradients, case.fn),
      *_make_args(case.shapes, *dtypes),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
  "dtypes",
  [
    ("float64",),
    ("float64", "bfloat16", "float32"),
    ("bfloat16", "float32", "float64"),
    ("float32", "float64", "float16"),
  ],
)
@pytest.mark.parametrize("name", [x for x in CASES if "attention" in x])
def test_strict_promotion_of_mixed_dtypes(x64, name, dtypes):
  """Fails if a kernel refuses arguments of different dtypes."""
  test_strict_promotion(name, dtypes, jax.eval_shape)


def _shard(x, mesh):
  """Shards the sequences and heads of an array, if it has such axes."""
  spec = [None] * x.ndim
  if x.ndim > 2 and x.shape[0] == B or x.shape == (B, K):
    spec[0] = "data"
  if x.ndim == 4 and x.shape[2] == H:
    spec[2] = "model"
  return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))


def _make_mesh(*axis_types):
  return jax.make_mesh(
    (2, 2), ("data", "model"), axis_types, devices=jax.devices()[:4]
  )


def _assert_close(found, right):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
    found,
    right,
  )


@pytest.mark.parametrize("name", CASES)
def test_explicit_sharding(name):
  """Fails if a kernel refuses sharded arrays, mixes them up or gathers them."""
  args, right = _right(name)
  mesh = _make_mesh(AxisType.Explicit, AxisType.Explicit)
  args = [_shard(x, mesh) for x in args]
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  gradients, value = found = jax.jit(fn)(*args)
  _assert_close(found, right)
  # On the devices of the arguments.
  for x, ct in zip(args, gradients, strict=True):
    assert ct.sharding.spec == x.sharding.spec
  for x in jax.tree.leaves(value):
    if x.ndim > 2:
      assert x.sharding.spec[0] == "data"


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  ("types", "is_compiled"),
  [
    ((AxisType.Explicit, AxisType.Explicit), True),
    pytest.param(
      *((AxisType.Explicit, AxisType.Explicit), False), marks=pytest.mark.full
    ),
    ((AxisType.Explicit, AxisType.Auto), True),
    ((AxisType.Auto, AxisType.Explicit), True),
  ],
)
def test_context_mesh(name, types, is_compiled):
  """Fails if a kernel breaks under `jax.set_mesh`, or in a mixed mesh."""
  args, right = _right(name)
  mesh = _make_mesh(*types)
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  with jax.set_mesh(mesh):
    args = [_shard(x, mesh) for x in args]
    _assert_close((jax.jit(fn) if is_compiled else fn)(*args), right)


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      name, marks=() if "softmax" in name or "lsh" in name else pytest.mark.slow
    )
    for name in CASES
  ],
)
def test_debugging_switches(name):
  """Fails if the -inf of masked scores is reported as an error."""
  args, right = _right(name)
  with jax.debug_infs(True), jax.debug_nans(True):
    found = value_and_gradients(CASES[name].fn, *args)
  _assert_close(found, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
  "run",
  [
    pytest.param(_call, marks=pytest.mark.full),
    lambda fn, *args: jax.jit(fn)(*args),
  ],
)
def test_debugging_switches_in_float64(x64, name, run):
  """Like `test_debugging_switches`, in the other precision, and compiled."""
  args = _make_args(CASES[name].shapes, "float64")
  fn = functools.partial(value_and_gradients, CASES[name].fn)
  with jax.debug_infs(True), jax.debug_nans(True):
    run(fn, *args)


@pytest.mark.parametrize(
  "fn",
  [
    kernels.softmax_attention,
    kernels.chunked_softmax_attention,
  ],
)
def test_debugging_switches_find_errors_of_the_user(fn):
  """Fails if a NaN is hidden from `jax.debug_nans`."""
  q, k, v = _make_args((BTHK,) * 3, "float32")
  nan, inf = q.at[0, 0, 0, 0].set(jnp.nan), v.at[0, 0, 0, 0].set(jnp.inf)
  with jax.debug_nans(True), pytest.raises(FloatingPointError):
    fn(nan, k, v, is_causal=True)
  # A query that sees inf is NaN.
  with jax.debug_nans(True), pytest.raises(FloatingPointError):
    fn(q, k, inf, is_causal=True)
