"""A folder belongs to one run, and records which."""

import json

import pytest

from slim import config as config_lib
from slim.runs import config_json, workdir
from tests.helpers import make_config


def test_settings_are_written_and_read_back(tmp_path):
  """Fails if an evaluation builds another model."""
  config = make_config(
    model__width=64, optimizer__clip_norm=0.5, profile__steps=(10, 20)
  )
  config_json.write_config(str(tmp_path / "new"), config, "data")
  stored = config_json.read_config(str(tmp_path / "new"))
  assert config_lib.flatten(stored) == config_lib.flatten(config)
  record = json.loads((tmp_path / "new" / "config.json").read_text())
  assert record["data"] == "data"
  [process] = record["processes"]
  assert process["start"] == 0
  config_json.write_config(str(tmp_path / "new"), config, "data", start=7)
  first, second = config_json.read_processes(str(tmp_path / "new"))
  assert (first, second["start"]) == (process, 7)


def test_check_writes_nothing(tmp_path):
  """Fails if a refused run leaves a folder that refuses the next one."""
  workdir.check_workdir(str(tmp_path / "new"), make_config())
  assert not list(tmp_path.iterdir())


def test_other_settings_are_refused(tmp_path):
  """Fails if two runs mix their metrics and checkpoints."""
  config_json.write_config(str(tmp_path), make_config(), "data")
  with pytest.raises(ValueError) as error:
    workdir.check_workdir(
      str(tmp_path), make_config(optimizer__beta1=0.8, seed=3)
    )
  message = str(error.value)
  assert "config.optimizer.beta1 (0.9 there, 0.8 here)" in message
  assert "config.seed (0 there, 3 here)" in message
  assert message.endswith("or --allow_change=optimizer.beta1,seed")
  assert "\n" not in message


def test_a_checkpoint_is_no_place_to_train(tmp_path):
  """Fails if training in it would damage it."""
  (tmp_path / "run.json").write_text("{}")
  with pytest.raises(ValueError, match="is a checkpoint: .* --config.train."):
    workdir.check_workdir(str(tmp_path), make_config())


def test_a_change_can_be_allowed(tmp_path):
  """Fails if a run cannot continue with another rate, or more may change."""
  config_json.write_config(str(tmp_path), make_config(), "data")
  changed = make_config(optimizer__beta1=0.8, train__num_steps=7)
  workdir.check_workdir(str(tmp_path), changed, ("seed", "optimizer.beta1"))
  with pytest.raises(ValueError, match="different: config.optimizer.beta1 "):
    workdir.check_workdir(str(tmp_path), changed, ("seed",))


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
  """Fails if a file elsewhere is emptied or locked."""
  other = tmp_path / "other"
  other.write_text("precious")
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / ".lock").symlink_to(other)
  with pytest.raises(ValueError, match="cannot write"):
    with workdir.lock_workdir(str(folder)):
      pass
  assert other.read_text() == "precious"


@pytest.mark.parametrize(
  "settings",
  [
    dict(data__path="moved.txt"),
    dict(profile__steps=(1, 2)),
    dict(train__checkpoint_every=7),
    dict(train__eval_every=7),
    dict(train__keep_best="eval/loss"),
    dict(train__keep_checkpoints=7),
    dict(train__log_every=7),
    dict(train__max_minutes=7.0),
    dict(train__num_steps=7),
    dict(train__patience=7),
    dict(train__tensorboard=True),
  ],
)
def test_settings_that_change_no_number_may_differ(tmp_path, settings):
  """Fails if a run cannot be made longer."""
  config_json.write_config(str(tmp_path), make_config(), "data")
  workdir.check_workdir(str(tmp_path), make_config(**settings))


@pytest.mark.parametrize(
  "settings",
  [
    dict(optimizer__schedule="cosine"),
    dict(gradient__method="full_then_slim"),
  ],
)
def test_num_steps_must_agree_where_steps_depend_on_it(tmp_path, settings):
  """Fails if the learning rate would jump in the middle of a run."""
  config_json.write_config(str(tmp_path), make_config(**settings), "data")
  with pytest.raises(ValueError, match="config.train.num_steps"):
    workdir.check_workdir(
      str(tmp_path), make_config(**settings, train__num_steps=7)
    )


def test_a_run_from_other_weights_is_another_run(tmp_path):
  """Fails if a command with other initial weights ignores them."""
  config_json.write_config(str(tmp_path), make_config(), "data")
  with pytest.raises(ValueError, match="init_from .None there, 'x.safetens"):
    workdir.check_workdir(
      str(tmp_path), make_config(train__init_from="x.safetensors")
    )


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "config.json"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path, name):
  """Fails if a run compiles before it notices that it cannot write."""
  (tmp_path / name).mkdir()
  with pytest.raises(ValueError, match=f"must have a file {name}, or nothing"):
    workdir.check_workdir(str(tmp_path), make_config())


@pytest.mark.parametrize("name", ["checkpoints", "profile"])
def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path, name):
  """Fails if a run trains for hours before it notices."""
  config_json.write_config(str(tmp_path), make_config(), "data")
  (tmp_path / name).touch()
  with pytest.raises(ValueError, match=f"must have a folder {name}, or noth"):
    workdir.check_workdir(str(tmp_path), make_config())


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_results_of_an_unknown_run_are_not_touched(tmp_path, name):
  """Fails if a run overwrites results that it did not make."""
  if name == "checkpoints":
    (tmp_path / name).mkdir()
  else:
    (tmp_path / name).touch()
  with pytest.raises(ValueError, match=f"has {name} but no config.json"):
    workdir.check_workdir(str(tmp_path), make_config())


def test_one_process_trains_in_a_folder(tmp_path):
  """Fails if two runs replace each other's records."""
  folder = str(tmp_path / "new")
  with workdir.lock_workdir(folder):
    with pytest.raises(ValueError) as error:
      with workdir.lock_workdir(folder):
        raise AssertionError("two at once")
    workdir.check_workdir(folder, make_config())  # This is no result.
  assert str(error.value) == (
    f"--workdir {folder} is being trained by another process: wait for it, or "
    "choose another"
  )
  with workdir.lock_workdir(folder):
    pass


def test_a_file_system_without_locks_is_a_warning(
  tmp_path, monkeypatch, caplog
):
  """Fails if file systems without locks cannot be used."""

  def flock(*args):
    raise OSError(38, "Function not implemented")

  monkeypatch.setattr(workdir.fcntl, "flock", flock)
  with workdir.lock_workdir(str(tmp_path)):
    pass
  [message] = caplog.messages
  assert message.endswith("not implemented: train there in one process only")


@pytest.mark.parametrize(
  "text", ["", "{", "[]", "{}", '{"config": 3}', '{"config": {"seed": "x"}}']
)
def test_damaged_settings_are_an_error(tmp_path, text):
  """Fails if a half-written file ends in a traceback."""
  (tmp_path / "config.json").write_text(text)
  with pytest.raises(ValueError, match="config.json is damaged"):
    config_json.read_config(str(tmp_path))


def test_missing_settings_are_an_error(tmp_path):
  """Fails if evaluating an empty folder ends in a traceback."""
  with pytest.raises(ValueError, match="with a config.json: cannot read"):
    config_json.read_config(str(tmp_path))


def test_settings_of_a_newer_version_are_named(tmp_path):
  """Fails if a setting of a newer version is ignored silently."""
  record = {"config": make_config().to_dict() | {"sharding": "fsdp"}}
  (tmp_path / "config.json").write_text(json.dumps(record))
  with pytest.raises(ValueError, match="config.sharding is no setting"):
    config_json.read_config(str(tmp_path))
