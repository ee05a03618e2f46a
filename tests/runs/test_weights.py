"""Weights in a file: exact, with their settings, or an error of one line."""

import json
import os

import chex
import jax
import numpy as np
import pytest
import safetensors.numpy

from slim import config as config_lib
from slim.models import stacking
from slim.runs import weights
from tests.helpers import make_config
from tests.models import small

SIZES = {"width": 16, "num_layers": 2, "num_heads": 2, "mlp_width": 24}


def make_params():
  """Returns arbitrary bits, including NaNs; one array in Fortran order."""
  bits = np.random.default_rng(0).integers(0, 2**32, 60, np.uint32)
  x, y = np.split(bits.view(np.float32), 2)
  return {
    "layer_0": {"attention": {"q": {"kernel": x.reshape(5, 6).T}}},
    "logits": {"out": {"bias": y}},
  }


@pytest.fixture
def path(tmp_path):
  """A file of weights, after 7 steps."""
  result = str(tmp_path / "model.safetensors")
  settings = make_config(model__width=64, optimizer__clip_norm=0.5)
  weights.save_weights(result, make_params(), settings, 7)
  return result


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


def load_initial(path, params, **settings):
  """Loads the initial weights of a model with parameters like `params`."""
  settings = dict(model__width=64) | settings
  config = make_config(train__init_from=path, **settings)
  abstract = jax.eval_shape(lambda: params)
  return weights.load_initial_params(config, abstract)


def test_a_run_starts_from_the_weights_of_the_file(path):
  """Fails if fine-tuning starts from other weights."""
  found = load_initial(
    path,
    make_params(),
    seed=3,
    model__dropout=0.1,
    model__dtype="bfloat16",
    data__sequence_length=1024,
  )
  chex.assert_trees_all_equal(found, make_params())


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (dict(model__num_heads=2), "config.model.num_heads must be 4, as in conf"),
    (dict(model__norm="pre"), "config.model.norm must be 'output', as in con"),
    (dict(data__vocab_size=300), "config.data.vocab_size must be 256, as in"),
  ],
)
def test_weights_of_another_model_are_refused(path, settings, message):
  """Fails if equal shapes hide that the weights mean something else."""
  with pytest.raises(ValueError) as error:
    load_initial(path, make_params(), **settings)
  assert str(error.value).startswith(message)
  assert str(error.value).endswith(f", got {list(settings.values())[0]!r}")
  assert f"config.train.init_from={path}" in str(error.value)


def test_random_features_need_their_seed(tmp_path):
  """Fails if weights are combined with random features of another seed."""
  path = str(tmp_path / "x")
  favor = dict(model__feature_map="favor", model__qk_norm=True)
  weights.save_weights(path, make_params(), make_config(seed=1, **favor), 7)
  width = config_lib.base().model.width
  with pytest.raises(ValueError, match="^config.seed must be 1, as in config"):
    load_initial(path, make_params(), seed=2, model__width=width, **favor)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"logits": {"out": {"bias": np.zeros(31, np.float32)}}},
      "logits.out.bias must be float32[31], is float32[30] in /",
    ),
    (
      {"logits": {"out": {"bias": np.zeros(30, np.int32)}}},
      "logits.out.bias must be int32[30], is float32[30] in /",
    ),
    ({"logits": {}}, "logits.out.bias must be absent, is float32[30] in /"),
    (
      {"new": np.zeros((), np.float32)},
      "new must be float32[], is absent in /",
    ),
  ],
)
def test_the_first_parameter_that_differs_is_named(path, change, message):
  """Fails if the error comes from inside a compiled program."""
  with pytest.raises(ValueError) as error:
    load_initial(path, make_params() | change)
  assert str(error.value).startswith(f"config.train.init_from: {message}")
  assert "\n" not in str(error.value)


def test_a_bad_file_names_the_setting(path):
  """Fails if the message does not say which setting names the file."""
  with pytest.raises(ValueError, match="^config.train.init_from: none must be"):
    load_initial("none", make_params())


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
  params = weights.load_initial_params(config, other)
  chex.assert_trees_all_equal(params, stacking.unstack(stacked))
