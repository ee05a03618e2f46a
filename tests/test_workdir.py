"""A folder belongs to one run, and says which."""

import json

import pytest

from slim import config as config_lib
from slim import workdir


def make(**settings):
  """Returns settings that differ from the defaults, dots written as __."""
  config = config_lib.base()
  config.update_from_flattened_dict(
    {name.replace("__", "."): value for name, value in settings.items()}
  )
  return config


def test_settings_are_written_and_read_back(tmp_path):
  """Without it an evaluation would build another model."""
  config = make(
    model__width=64, optimizer__clip_norm=0.5, profile__steps=(10, 20)
  )
  workdir.write_config(str(tmp_path / "new"), config, "data")
  stored = workdir.read_config(str(tmp_path / "new"))
  assert config_lib.flatten(stored) == config_lib.flatten(config)
  record = json.loads((tmp_path / "new" / "config.json").read_text())
  assert record["data"] == "data"
  assert set(record["versions"]) == {"slim", "jax", "python"}


def test_check_writes_nothing(tmp_path):
  """Without it a refused run would leave a folder that refuses the next."""
  workdir.check_workdir(str(tmp_path / "new"), make())
  assert not list(tmp_path.iterdir())


def test_other_settings_are_refused(tmp_path):
  """Without it two runs would mix their metrics and checkpoints."""
  workdir.write_config(str(tmp_path), make(), "data")
  with pytest.raises(ValueError) as error:
    workdir.check_workdir(str(tmp_path), make(optimizer__beta1=0.8, seed=3))
  message = str(error.value)
  assert "config.optimizer.beta1 (0.9 there, 0.8 here)" in message
  assert "config.seed (0 there, 3 here)" in message
  assert "\n" not in message


@pytest.mark.parametrize(
  "settings",
  [
    dict(data__path="moved.txt"),
    dict(profile__steps=(1, 2)),
    dict(train__checkpoint_every=7),
    dict(train__eval_every=7),
    dict(train__keep_checkpoints=7),
    dict(train__log_every=7),
    dict(train__num_steps=7),
    dict(train__tensorboard=True),
  ],
)
def test_settings_that_change_no_number_may_differ(tmp_path, settings):
  """Without it a run could not be made longer."""
  workdir.write_config(str(tmp_path), make(), "data")
  workdir.check_workdir(str(tmp_path), make(**settings))


@pytest.mark.parametrize(
  "settings",
  [
    dict(optimizer__schedule="cosine"),
    dict(gradient__method="full_then_slim"),
  ],
)
def test_num_steps_must_agree_where_steps_depend_on_it(tmp_path, settings):
  """Without it the rate would jump in the midst of a run."""
  workdir.write_config(str(tmp_path), make(**settings), "data")
  with pytest.raises(ValueError, match="config.train.num_steps"):
    workdir.check_workdir(str(tmp_path), make(**settings, train__num_steps=7))


def test_a_run_from_other_weights_is_another_run(tmp_path):
  """Without it a command that names weights would go on without them."""
  workdir.write_config(str(tmp_path), make(), "data")
  with pytest.raises(ValueError, match="init_from .None there, 'x.safetens"):
    workdir.check_workdir(str(tmp_path), make(train__init_from="x.safetensors"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_results_of_an_unknown_run_are_not_touched(tmp_path, name):
  """Without it a run would write over results that it did not make."""
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f"has {name} but no config.json"):
    workdir.check_workdir(str(tmp_path), make())


def test_a_file_is_no_folder(tmp_path):
  """Without it the error would be an OSError from deep inside."""
  (tmp_path / "x").write_text("")
  with pytest.raises(ValueError, match="must be a folder, got the file"):
    workdir.check_workdir(str(tmp_path / "x"), make())


@pytest.mark.parametrize(
  "text", ["", "{", "[]", "{}", '{"config": 3}', '{"config": {"seed": "x"}}']
)
def test_damaged_settings_are_an_error(tmp_path, text):
  """Without it a half-written file would end in a traceback."""
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match="config.json is damaged"):
    workdir.read_config(str(tmp_path))


def test_missing_settings_are_an_error(tmp_path):
  """Without it evaluating an empty folder would end in a traceback."""
  with pytest.raises(ValueError, match="with a config.json: cannot read"):
    workdir.read_config(str(tmp_path))


def test_settings_of_a_newer_version_are_named(tmp_path):
  """Without it a setting that this version ignores would be lost silently."""
  record = {"config": make().to_dict() | {"sharding": "fsdp"}}
  (tmp_path / "config.json").write_text(json.dumps(record))
  with pytest.raises(ValueError, match="config.sharding is no setting"):
    workdir.read_config(str(tmp_path))
