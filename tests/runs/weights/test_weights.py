"""Weights in a file: exact, with their settings, or an error of one line."""

import json
import os

import chex
import jax
import pytest
import safetensors.numpy

from slim.models import stacking
from slim.runs import weights
from tests.helpers import make_config
from tests.models import small
from tests.runs.weights.cases import make_params

SIZES = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}


def test_weights_come_back_bit_for_bit(path):
  """Fails if an exported model differs from the trained one."""
  params, config = weights.load_weights(path)
  expected = make_params()
  chex.assert_trees_all_equal_shapes_and_dtypes(params, expected)
  chex.assert_trees_all_equal(
    *jax.tree.map(lambda x: x.tobytes(), (params, expected))
  )
  assert config.model.width == 64
  assert config.optimizer.clip_norm == 0.5
  assert config.is_locked


def test_other_programs_can_read_the_file(path):
  """Fails if only this code can read names, step and settings."""
  with safetensors.safe_open(path, framework="numpy") as file:
    assert set(file.keys()) == {
      "layer_0.attention.q.kernel",
      "logits.out.bias",
    }
    assert file.metadata()["step"] == "7"
    assert json.loads(file.metadata()["config"])["model"]["width"] == 64


def test_an_existing_file_is_left_alone(path, tmp_path):
  """Fails if a wrong name overwrites a model."""
  before = (tmp_path / "model.safetensors").read_bytes()
  with pytest.raises(ValueError, match="^output must be a new file, and /"):
    weights.save_weights(path, {}, make_config(), 8)
  assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
  """Fails if a full disk leaves half a model under its name."""
  whole = []

  def replace(temporary, output):
    assert not os.path.exists(output)
    whole.append(safetensors.numpy.load_file(temporary))

  monkeypatch.setattr(os, "replace", replace)
  weights.save_weights(str(tmp_path / "x"), make_params(), make_config(), 7)
  assert whole and set(whole[0]) == {
    "layer_0.attention.q.kernel",
    "logits.out.bias",
  }


def test_files_of_the_user_are_left_alone(tmp_path):
  """Fails if a file of the user with a similar name is lost."""
  other = tmp_path / "x.tmp"
  other.write_text("mine")
  weights.save_weights(str(tmp_path / "x"), make_params(), make_config(), 7)
  assert other.read_text() == "mine"
  assert {path.name for path in tmp_path.iterdir()} == {"x", "x.tmp"}


def test_a_folder_that_is_missing_is_one_line(tmp_path):
  """Fails if the message names a temporary file."""
  output = str(tmp_path / "none" / "x")
  with pytest.raises(ValueError) as error:
    weights.save_weights(output, make_params(), make_config(), 7)
  assert str(error.value) == (
    f"output: cannot write {output}: its folder does not exist: create it, or "
    "choose another"
  )


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path, monkeypatch):
  """Fails if each further try fills the disk a bit more."""

  def replace(temporary, output):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "replace", replace)
  with pytest.raises(ValueError, match="^output: cannot write .*No space left"):
    weights.save_weights(str(tmp_path / "x"), make_params(), make_config(), 7)
  assert not list(tmp_path.iterdir())


def test_a_file_has_the_rights_of_any_other(path, tmp_path):
  """Fails if other users cannot read a shared model."""
  other = tmp_path / "other"
  other.touch()
  assert os.stat(path).st_mode == other.stat().st_mode


@pytest.mark.parametrize(
  ("data", "message"),
  [
    (None, "x must be a safetensors file, but cannot be read: No such file"),
    (b"", "x must be a safetensors file, but cannot be read: "),
    (b"hello, this is a text" * 9, "but cannot be read: "),
    (safetensors.numpy.save({}), "must have the settings of a run"),
    (
      safetensors.numpy.save({}, {"format": "pt"}),
      "but has none: write it with `python -m slim.export`",
    ),
    (safetensors.numpy.save({}, {"config": "{"}), "must have the settings"),
    (
      safetensors.numpy.save({}, {"config": '{"newer": 3}'}),
      "config.newer is no setting",
    ),
  ],
  ids=["missing", "empty", "text", "bare", "foreign", "damaged", "newer"],
)
def test_a_bad_file_is_one_line(tmp_path, data, message):
  """Fails if a wrong file ends in a traceback."""
  if data is not None:
    (tmp_path / "x").write_bytes(data)
  with pytest.raises(ValueError) as error:
    weights.load_weights(str(tmp_path / "x"))
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_a_file_that_was_cut_off_is_one_line(path):
  """Fails if a broken download ends in a traceback."""
  with open(path, "r+b") as file:
    file.truncate(os.path.getsize(path) - 1)
  with pytest.raises(ValueError, match="but cannot be read: .*not fully cov"):
    weights.load_weights(path)


def test_stacked_layers_are_written_one_by_one(tmp_path):
  """Fails if a file fits only models that stack their layers, or do not."""
  path = str(tmp_path / "model.safetensors")
  settings = make_config(
    **{f"model__{k}": v for k, v in SIZES.items()},
    model__stack_layers=True,
  )
  sizes = SIZES | {"vocab_size": 256, "dtype": "float32"}
  stacked = small.params_of(small.create(stack_layers=True, **sizes))
  weights.save_weights(path, stacked, settings, 1)
  with safetensors.safe_open(path, framework="numpy") as file:
    assert "layer_1.mlp.in.kernel" in file.keys()
  params, config = weights.load_weights(path)
  chex.assert_trees_all_equal(params, stacked)
  with config.unlocked():
    config.model.stack_layers = False
    config.train.init_from = path
  other = small.params_of(small.create(stack_layers=False, **sizes))
  params = weights.load_initial_params(config, small.with_params(other))
  chex.assert_trees_all_equal(params, stacking.unstack(stacked))
