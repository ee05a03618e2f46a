"""Settings are complete, checked, and named in every error."""

import pathlib
import re

import ml_collections
import pytest

from slim import config as config_lib

ROOT = pathlib.Path(__file__).parents[2]


def test_every_setting_is_explained():
  """Fails if `--helpfull` lists a setting without a description."""
  declarations = config_lib.list_declarations()
  assert set(declarations) == set(config_lib.flatten(config_lib.base()))
  for name, declaration in declarations.items():
    assert declaration.about.endswith("."), name


def test_settings_are_listed_in_their_order():
  """Fails if `--helpfull` mixes the groups."""
  groups = [x.rpartition(".")[0] for x in config_lib.list_declarations()]
  order = ["", "model", "data", "gradient", "optimizer", "train", "profile"]
  assert list(dict.fromkeys(groups)) == order


def test_adafactor_takes_no_stacks():
  """Fails if a run cannot be restored, or layers are mixed."""
  config = config_lib.base()
  config.optimizer.name = "adafactor"
  config_lib.validate(config)
  config.model.stack_layers = True
  with pytest.raises(ValueError, match="cannot be 'adafactor' with config.mod"):
    config_lib.validate(config)


def test_mlp_width_follows_width():
  """Fails if a wider model keeps the MLP of the narrow one."""
  config = config_lib.base()
  config.model.width = 128
  assert config.model.mlp_width == 512


@pytest.mark.parametrize(
  ("name", "value", "expected"),
  [
    ("gradient.chunk_size", 0, "> 0, got 0"),
    ("gradient.chunk_size", -8, "> 0, got -8"),
    ("gradient.method", "dense", "one of ('full', 'remat', 'slim', 'full_"),
    ("gradient.policy", "keep", "one of ('store', 'sqrt', 'rewind'), got"),
    ("matmul_precision", "fp64", "one of ('default', 'high', 'highest')"),
    ("model.dtype", "float8", "one of ('float32', 'bfloat16'), got 'flo"),
    ("model.dropout", 1.0, "in [0, 1), got 1.0"),
    ("model.width", 258, "a multiple of num_heads and of 4, got width=258"),
    ("optimizer.learning_rate", 0.0, "> 0, got 0.0"),
    ("optimizer.learning_rate", float("nan"), "a finite number, got nan"),
    ("optimizer.clip_norm", float("inf"), "a finite number or None, got inf"),
    ("optimizer.weight_decay", -0.1, ">= 0, got -0.1"),
    ("optimizer.schedule", "linear", "one of ('constant', 'cosine', 'step')"),
    ("optimizer.clip_norm", 0.0, "> 0, got 0.0"),
    ("seed", -1, "in [0, 4294967296), got -1"),
    ("train.num_steps", 2**31, "below 2^31, got 2147483648"),
    ("model.width", -1, "> 0, got -1"),  # Not mlp_width, which follows.
    ("model.mlp_width", -1, "> 0, got -1"),
    ("data.path", "", "a path, got ''"),
    ("data.path", "gs://bucket/text", "a path on this machine, got 'gs://"),
    ("train.init_from", "gs://bucket/x", "a path on this machine, got 'gs:"),
    ("train.accumulation_steps", 3, "a divisor of config.train.batch_size"),
    ("train.num_steps", 0, "> 0, got 0"),
    ("profile.steps", (10,), "FIRST,LAST with 1 <= FIRST <= LAST <= 1000, th"),
    ("profile.steps", (0, 1), "FIRST,LAST with 1 <= FIRST <= LAST <= 1000, "),
    ("profile.steps", (3, 2), "FIRST,LAST with 1 <= FIRST <= LAST <= 1000, "),
    ("profile.steps", (1, 1001), "FIRST,LAST with 1 <= FIRST <= LAST <= 100"),
    ("profile.steps", (1, 1.5), "FIRST,LAST with 1 <= FIRST <= LAST <= 1000"),
    ("profile.steps", ("1", "2"), "FIRST,LAST with 1 <= FIRST <= LAST <= 10"),
  ],
)
def test_validate_names_the_setting(name, value, expected):
  """Fails if a bad value fails far from its setting, or trains."""
  config = config_lib.base()
  config.update_from_flattened_dict({name: value})
  with pytest.raises(ValueError) as error:
    config_lib.validate(config)
  assert str(error.value).startswith(f"config.{name} must be {expected}")
  assert "\n" not in str(error.value)


def test_validate_keeps_no_activations_of_reversible_layers():
  """Fails if a run ends in a message of the model, far from the setting."""
  config = config_lib.base()
  config.gradient.method = "remat"
  config_lib.validate(config)
  config.model.reversible = True
  with pytest.raises(ValueError) as error:
    config_lib.validate(config)
  assert str(error.value) == (
    "config.gradient.method cannot be 'remat' with config.model.reversible=True"
    ", which keeps no activations: use 'full' or 'slim'"
  )


def test_validate_step_schedule_needs_its_step():
  """Fails if the learning rate would drop at step None."""
  config = config_lib.base()
  config.optimizer.schedule = "step"
  with pytest.raises(ValueError, match="config.optimizer.decay_at must be a"):
    config_lib.validate(config)


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("gradient.chunk_size", 1.5, "must be of type int, got 1.5"),
    ("gradient.chunk_size", True, "must be of type int, got True"),
    ("gradient.policy", None, "must be of type str, got None"),
    ("gradient.chunksize", 3, "did you mean config.gradient.chunk_size"),
  ],
)
def test_validate_checks_settings_made_by_hand(name, value, message):
  """Fails if Python code can pass a value that no flag accepts."""
  flat = config_lib.flatten(config_lib.base()) | {name: value}
  nested = {}
  for key, item in flat.items():
    group, _, last = key.rpartition(".")
    (nested.setdefault(group, {}) if group else nested)[last] = item
  with pytest.raises(ValueError, match=re.escape(message)):
    config_lib.validate(ml_collections.ConfigDict(nested))


def test_validate_finds_missing_settings():
  """Fails if an old config trains with a default that is not recorded."""
  config = config_lib.base()
  del config.gradient["policy"]
  with pytest.raises(ValueError, match="config.gradient.policy is missing"):
    config_lib.validate(config)


@pytest.mark.parametrize(
  ("name", "hint"),
  [
    ("gradient.chunksize", "did you mean config.gradient.chunk_size?"),
    ("chunk_size", "did you mean config.gradient.chunk_size?"),
    ("modle", "did you mean config.model?"),
    ("modle.width", "did you mean config.model.width?"),
    ("train.learning_rate", "did you mean config.optimizer.learning_rate?"),
    ("gradient.zzz", "there are config.gradient.chunk_size, config.grad"),
    ("gradient", "set one of config.gradient.chunk_size, config.gradient."),
    ("zzz", "there are config.data.document_lengths, "),
    ("", "there are config.data.document_lengths, "),
  ],
)
def test_unknown_settings_get_a_hint(name, hint):
  """Fails if a user must read the source to find a setting."""
  message = str(config_lib.unknown_setting(name))
  assert message.startswith(f"config.{name} is ")
  assert hint in message
