"""Training on a mesh: the numbers of one device, and its checkpoints."""

import pytest

from slim import train
from slim.runs.trained import load_run
from tests.helpers import SMALL, make_config
from tests.scale.processes import assert_same_losses

pytestmark = pytest.mark.usefixtures("compilation_cache")


def make(mesh, **settings):
  """Makes the config of a fast run."""
  defaults = SMALL | dict(
    mesh=mesh,
    model__dropout=0.1,
    data__sequence_length=22,
    gradient__chunk_size=4,
    train__num_steps=4,
    train__log_every=1,
    train__eval_every=2,
    train__eval_batches=1,
    train__checkpoint_every=2,
  )
  return make_config(**(defaults | settings))


@pytest.mark.parametrize(
  ("meshes", "settings"),
  [
    (["fsdp=2,sequence=2", "data=1"], {"gradient__method": "full"}),
    pytest.param(
      ["data=2,fsdp=2,sequence=2", "data=1"], {}, marks=pytest.mark.slow
    ),
    pytest.param(["data=1", "sequence=8"], {}, marks=pytest.mark.full),
    pytest.param(
      ["fsdp=4", "data=2,sequence=2"],
      {"optimizer__name": "muon", "model__stack_layers": True}
      | {"model__num_layers": 2, "optimizer__clip_norm": 0.5},
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ["data=2,sequence=2", "data=1"],
      {"gradient__chunk_size": None, "gradient__memory_budget": "1TiB"},
      marks=pytest.mark.full,
    ),
    pytest.param(
      ["sequence=4", "data=4"],
      {"model__attention": "softmax", "gradient__method": "full"},
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_run_goes_on_on_other_devices(tmp_path, meshes, settings):
  """Fails if a checkpoint, or a number of a run, depends on the devices."""
  for mesh, num_steps in zip(meshes, (2, 4), strict=True):
    config = make(mesh, train__num_steps=num_steps, **settings)
    train.train_and_evaluate(config, str(tmp_path / "moved"))
  whole = make("data=1", **settings)
  train.train_and_evaluate(whole, str(tmp_path / "whole"))
  assert_same_losses(tmp_path / "moved", tmp_path / "whole")
  assert int(load_run(str(tmp_path / "moved")).state.step) == 4


@pytest.mark.slow
def test_gradients_by_turns_and_other_weights(tmp_path):
  """Fails if a second gradient lays tokens out as the first, or weights move.

  The second run starts from the weights of the first.
  """
  for mesh in ("sequence=4", "data=1"):
    first, second = (tmp_path / f"{mesh}-{i}" for i in (1, 2))
    settings = {"gradient__method": "full_then_slim"}
    train.train_and_evaluate(make(mesh, **settings), str(first))
    settings["train__init_from"] = str(first)
    train.train_and_evaluate(make(mesh, **settings), str(second))
  for i in (1, 2):
    assert_same_losses(tmp_path / f"sequence=4-{i}", tmp_path / f"data=1-{i}")
