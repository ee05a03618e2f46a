"""A run that starts from weights in a file."""

import chex
import numpy as np
import pytest

from slim import config as config_lib
from slim.runs import weights
from tests.helpers import make_config
from tests.models import small
from tests.runs.weights.cases import make_params


def load_initial(path, params, **settings):
  """Loads the initial weights of a model with parameters like `params`."""
  settings = dict(model__width=64) | settings
  config = make_config(train__init_from=path, **settings)
  return weights.load_initial_params(config, small.with_params(params))


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


def test_a_parameter_for_each_position_fixes_the_length(path):
  """Fails if the advice for another length is another version of slim."""
  with pytest.raises(ValueError, match="^config.data.sequence_length must be "):
    load_initial(
      path, make_params(), model__positions="axial", data__sequence_length=64
    )


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
