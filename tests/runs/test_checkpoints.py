"""Checkpoints: exact, newest first, and never lost to a damaged one."""

import functools
import logging
import shutil
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from slim import command_line
from slim.models import stacking
from slim.runs import checkpoints, restoring
from slim.training import steps
from slim.training.compiled import compile_update_step
from slim.types import Sums
from tests.commands import assert_refused, limit_files, run_command
from tests.models import small

# A save that fails leaves work of tensorstore behind, which Python reports in
# whatever test runs next.
pytestmark = pytest.mark.filterwarnings(
  "ignore::pytest.PytestUnraisableExceptionWarning"
)

OPTIMIZER = optax.adam(0.1)


def init(seed=0):
  """Returns a state with nested parameters."""
  w = jax.random.normal(jax.random.key(seed), (64, 64))
  return steps.init_train_state({"layer": {"w": w}}, OPTIMIZER)


ABSTRACT = jax.eval_shape(init)


def save(workdir, *numbers, keep=3):
  """Saves one state per step, each from another seed."""
  checkpointer = checkpoints.Checkpointer(workdir, keep)
  for number in numbers:
    state = init(number)._replace(step=jnp.int32(number))
    checkpointer.save(state, {"window": [0.1, number]})
  checkpointer.close()


def damage(workdir, step):
  """Truncates the data of a checkpoint, as a full disk would."""
  folder = workdir / "checkpoints" / str(step) / "arrays"
  for file in folder.rglob("*"):
    if file.is_file() and file.parent.name == "d":
      file.write_bytes(file.read_bytes()[:50])


def test_restored_state_is_the_saved_one(tmp_path):
  """Fails if a resumed run continues from other numbers."""
  save(str(tmp_path), 5, 7)
  state, metadata = restoring.restore_newest(str(tmp_path), ABSTRACT)
  expected = init(7)._replace(step=jnp.int32(7))
  assert jax.tree.structure(state) == jax.tree.structure(expected)
  chex.assert_trees_all_equal(state, expected)
  assert metadata == {"window": [0.1, 7]}


def test_nothing_to_restore(tmp_path):
  """Fails if a first run cannot start."""
  assert restoring.restore_newest(str(tmp_path), ABSTRACT) is None
  assert not list(tmp_path.iterdir())
  (tmp_path / "checkpoints").mkdir()
  assert restoring.restore_newest(str(tmp_path), ABSTRACT) is None


def test_relative_folders_work(tmp_path, monkeypatch):
  """Fails if `--workdir=runs/x` fails, as Orbax needs absolute paths."""
  monkeypatch.chdir(tmp_path)
  save("runs", 5)
  assert restoring.restore_newest("runs", ABSTRACT)[0].step == 5


def test_only_the_newest_are_kept(tmp_path):
  """Fails if a long run fills the disk."""
  save(str(tmp_path), 1, 2, 3, 4, keep=2)
  names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert names == {"3", "4"}


def test_saving_copies_before_it_returns(tmp_path):
  """Fails if the next update, which donates, changes the checkpoint."""
  update = compile_update_step(steps.make_update_step(OPTIMIZER), init())
  state = init()
  expected = jax.tree.map(np.array, state)
  gradients = {"layer": {"w": jnp.ones((64, 64))}}
  sums = Sums(*map(jnp.float32, (1, 1, 1)))
  checkpointer = checkpoints.Checkpointer(str(tmp_path), 3)
  checkpointer.save(state, {})
  for _ in range(50):
    state, _ = update(state, gradients, sums)
  checkpointer.close()
  restored, _ = restoring.restore_newest(str(tmp_path), ABSTRACT)
  chex.assert_trees_all_equal(restored, expected)


def test_a_damaged_checkpoint_falls_back(tmp_path, caplog):
  """Fails if a full disk at the last save costs the whole run."""
  save(str(tmp_path), 5, 7)
  damage(tmp_path, 7)
  with caplog.at_level(logging.WARNING, "slim"):
    state, _ = restoring.restore_newest(str(tmp_path), ABSTRACT)
  assert state.step == 5
  [message] = [r.getMessage() for r in caplog.records if r.name[:4] == "slim"]
  assert message.startswith("the checkpoint of step 7 is damaged, falling back")
  assert "\n" not in message
  assert (tmp_path / "checkpoints" / "7").is_dir()  # Only read.


def test_an_empty_folder_is_a_damaged_checkpoint(tmp_path):
  """Fails if a half-deleted checkpoint stops the run."""
  save(str(tmp_path), 5)
  (tmp_path / "checkpoints" / "7").mkdir()
  state, _ = restoring.restore_newest(str(tmp_path), ABSTRACT)
  assert state.step == 5


def test_only_damaged_checkpoints_are_an_error(tmp_path):
  """Fails if a run silently starts from the beginning."""
  save(str(tmp_path), 5, 7)
  damage(tmp_path, 5)
  damage(tmp_path, 7)
  with pytest.raises(ValueError, match=r"no readable .* \[7, 5\]") as error:
    restoring.restore_newest(str(tmp_path), ABSTRACT)
  assert "\n" not in str(error.value)


def test_damaged_checkpoints_are_set_aside(tmp_path):
  """Fails if the step cannot be saved again, or a checkpoint is lost."""
  save(str(tmp_path), 5, 7)
  damage(tmp_path, 7)
  checkpoints.set_aside_after(str(tmp_path), 5)
  assert (tmp_path / "damaged_checkpoints" / "7.0").is_dir()
  save(str(tmp_path), 7)
  restore = functools.partial(restoring.restore_newest, str(tmp_path))
  assert restore(ABSTRACT)[0].step == 7
  # The same step is damaged again.
  checkpoints.set_aside_after(str(tmp_path), 5)
  assert (tmp_path / "damaged_checkpoints" / "7.1").is_dir()


def test_another_model_is_not_damage(tmp_path):
  """Fails if good checkpoints of another model are set aside."""
  save(str(tmp_path), 5)
  other = ABSTRACT._replace(params={"new": ABSTRACT.params})
  with pytest.raises(ValueError, match="checkpoints/5 has parameters that"):
    restoring.restore_newest(str(tmp_path), other)


def test_a_save_under_way_is_left_alone_by_readers(tmp_path):
  """Fails if evaluating a run breaks its save."""
  save(str(tmp_path), 5)
  under_way = tmp_path / "checkpoints" / ".saving.0123"
  under_way.mkdir()
  assert restoring.restore_newest(str(tmp_path), ABSTRACT)[0].step == 5
  assert under_way.is_dir()
  save(str(tmp_path), 7)  # The process that has left it is gone.
  assert not under_way.exists()


def test_a_checkpoint_can_be_opened_alone(tmp_path):
  """Fails if a checkpoint needs the folder of its run."""
  save(str(tmp_path / "run"), 5)
  alone = tmp_path / "alone"
  shutil.copytree(tmp_path / "run" / "checkpoints" / "5", alone)
  found = restoring.find_checkpoint(str(alone))
  state, record = restoring.restore(found, ABSTRACT)
  assert (state.step, record) == (5, {"window": [0.1, 5]})
  (alone / "run.json").write_text("{}")
  with pytest.raises(ValueError, match="damaged checkpoint: run.json is not"):
    restoring.find_checkpoint(str(alone))


def test_a_full_disk_is_one_line(tmp_path):
  """Fails if tracebacks hide that the disk is full."""

  def fill():
    save(str(tmp_path), 5)

  with limit_files(3000):
    done = run_command(lambda argv: command_line.run(fill, argv))
  assert_refused(
    done, f"cannot save a checkpoint in {tmp_path}/checkpoints: File too large"
  )
  assert checkpoints.list_steps(str(tmp_path)) == []


def test_a_save_that_fails_is_noticed_before_the_next(tmp_path):
  """Fails if a run trains on for hours after its disk is full."""
  with limit_files(3000):
    checkpointer = checkpoints.Checkpointer(str(tmp_path), 3)
    checkpointer.save(init(), {})
    with pytest.raises(ValueError, match="cannot save .* File too large"):
      for _ in range(1000):
        checkpointer.check()
        time.sleep(0.01)
  checkpointer.close()


@pytest.mark.parametrize("saved", [True, False])
def test_either_form_of_layers_continues_in_the_other(tmp_path, saved):
  """Fails if a run could not be continued with layers stacked, or unstacked."""

  def state_of(stacked):
    model = small.create(num_layers=2, dtype="float32", stack_layers=stacked)
    return steps.init_train_state(small.params_of(model), OPTIMIZER)

  state, other = state_of(saved), state_of(not saved)
  checkpointer = checkpoints.Checkpointer(str(tmp_path), 1)
  checkpointer.save(state, {})
  checkpointer.close()
  restored, _ = restoring.restore_newest(
    str(tmp_path), jax.eval_shape(lambda: other)
  )
  chex.assert_trees_all_equal(
    stacking.unstack(restored), stacking.unstack(state)
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(restored, other)
