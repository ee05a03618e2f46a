"""Stacked layers are the same layers, compiled once."""

import chex
import jax
import numpy as np
import optax
import pytest

from slim.models import stacking
from slim.training.gradients import make_value_and_grad
from tests.helpers import assert_gradients_close
from tests.models import small

CASES = {
  "favor": (
    {"feature_map": "favor", "qk_norm": True, "num_layers": 2},
    {"method": "slim", "chunk_size": 5, "policy": "rewind"},
  ),
  "hybrid": (
    {"attention": "linear,lsh", "num_layers": 4},
    {"method": "full"},
  ),
  "remat": (
    {"attention": "linear,local", "num_layers": 4},
    {"method": "remat"},
  ),
  "lsh_reversible": (
    {"attention": "lsh", "num_layers": 2, "reversible": True},
    {"method": "full"},
  ),
  "linear_reversible": (
    {"num_layers": 2, "reversible": True},
    {"method": "full"},
  ),
  "linear_reversible_slim": (
    {"num_layers": 2, "reversible": True},
    {"method": "slim", "chunk_size": 5},
  ),
  "gated_slim": (
    {"attention": "gdn,softmax", "num_layers": 4},
    {"method": "slim", "chunk_size": 5},
  ),
}


# Two programs each, so all but one wait for `make test-slow`.
@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=[] if name == "hybrid" else pytest.mark.slow)
    for name in CASES
  ],
)
def test_stacked_layers_compute_the_same(x64, name):
  """Fails if a layer gets the parameters, constants or keys of another."""
  settings, how = CASES[name]
  settings |= {"dropout": 0.1}
  model = small.create(stack_layers=False, **settings)
  params = small.params_of(model)
  right = small.gradient_of(model, **how)(
    params, small.batch_of(12), small.KEYS
  )
  model = small.create(stack_layers=True, **settings)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  value_and_grad = make_value_and_grad(model, **how)

  @jax.jit
  def run(params, *batch):
    params = stacking.match_form(params, shapes)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    sums, gradient = value_and_grad(params, *batch)
    return sums, stacking.unstack(gradient)

  found = run(params, small.batch_of(12), small.KEYS)
  assert_gradients_close(found, right, 1e-12)


def test_stacked_layers_start_alike():
  """Fails if the depth at which layers are stacked changes the first loss."""
  params = [
    jax.jit(
      small.create(num_layers=2, dtype="float32", stack_layers=stacked).init
    )(jax.random.key(3))
    for stacked in (False, True)
  ]
  unstacked = jax.jit(stacking.unstack)(params[1])
  chex.assert_trees_all_equal(unstacked, params[0])


def test_a_stacked_state_continues(x64):
  """Fails if the states of stacked layers are mixed up between two calls."""
  settings = {"attention": "linear,local", "num_layers": 4}
  params = small.params_of(small.create(stack_layers=False, **settings))
  outputs = []
  for stacked in (False, True):
    model = small.create(stack_layers=stacked, **settings)
    if stacked:
      params = jax.jit(lambda x: stacking.stack(x, 2))(params)
    state, pieces = model.init_state(2, max_tokens=12), []
    for piece in np.split(small.tokens_of(2, 12), 2, 1):
      logits, state = small.apply_of(model)(params, piece, state)
      pieces.append(logits)
    outputs.append(np.concatenate(pieces, 1))
  assert_gradients_close(*outputs, 1e-12)


def test_layers_that_do_not_repeat_are_refused():
  """Fails if a wish that cannot be met is ignored."""
  with pytest.raises(ValueError, match="stack_layers needs num_layers to be"):
    small.create(attention="linear,local", num_layers=3, stack_layers=True)


def test_either_form_converts_into_the_other():
  """Fails if a checkpoint of one form could not be continued in the other."""
  model = small.create(attention="linear,local", num_layers=4, dtype="float32")

  @jax.jit
  def convert(params):
    tree = optax.adam(0.1).init(params), params
    stacked = stacking.stack(tree, 2)
    back = stacking.unstack(stacked), stacking.match_form(stacked, params)
    return tree, stacked, back, stacking.match_form(tree, stacked[1])

  tree, stacked, back, again = convert(small.params_of(model))
  assert set(stacked[1]) == {"embedding", "layers_0", "layers_1", "logits"}
  chex.assert_trees_all_equal(*back, tree)
  chex.assert_trees_all_equal(again, stacked)


def test_a_stack_of_vectors_is_no_matrix():
  """Fails if the biases of stacked layers decay."""
  model = small.create(num_layers=2, stack_layers=True, dtype="float32")
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  found = jax.tree_util.tree_map_with_path(stacking.is_matrix, shapes)
  assert (
    found["embedding"]["table"] and found["layers_0"]["mlp"]["in"]["kernel"]
  )
  assert not found["layers_0"]["mlp"]["in"]["bias"]
  assert not found["layers_0"]["mlp_norm"]["scale"]


def test_biases_of_key_channels_are_no_matrix():
  """Fails if weight decay pulls the time steps of KDA to long ones."""
  model = small.create(attention="kda", dtype="float32")
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  found = jax.tree_util.tree_map_with_path(stacking.is_matrix, shapes)
  flat, _ = jax.tree_util.tree_flatten_with_path(found)
  matrices = {path[-1].key for path, is_matrix in flat if is_matrix}
  assert matrices == {"table", "kernel"}
