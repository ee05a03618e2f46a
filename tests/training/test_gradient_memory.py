"""Memory of each method of differentiation, by length and by depth."""

import functools

import jax
import jax.numpy as jnp
import pytest

from slim.kernels import scan
from slim.models import create_model
from slim.training.gradients import make_step
from slim.types import Batch
from tests.helpers import AS_USERS
from tests.models.small import temporary_bytes


def wide(num_layers=1, **settings):
  """A model of width 128, of which activations are what most memory is for."""
  sizes = dict(vocab_size=11, width=128, num_heads=2, mlp_width=512)
  return create_model(**sizes, num_layers=num_layers, **settings)


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
  [
    ("rewind", 0),
    ("store", 1024 - 64),
    pytest.param("sqrt", 2 * 32 - 2 * 8, marks=pytest.mark.full),
  ],
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
@pytest.mark.parametrize(("attention", "most"), [("linear", 59), ("gdn", 93)])
def test_activations_of_a_chunk(attention, most):
  """Fails if XLA keeps what it can compute again, or one array in two shapes.

  It has done so for norms, for GELU and SiLU, and for the short convolution:
  68 and 153 arrays [C, D].
  """
  how = {"method": "slim", "chunk_size": 512, "policy": "store"}
  found = temporary_bytes(wide(2, attention=attention), 2048, AS_USERS, **how)
  assert found <= most * (4 * 512 * 128)


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
@pytest.mark.parametrize(
  "policy",
  [
    "rewind",
    *(pytest.param(x, marks=pytest.mark.full) for x in ("sqrt", "store")),
  ],
)
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
