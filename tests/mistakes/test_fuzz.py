"""Random mistakes: none ends in a traceback, hangs or changes a file.

Each check draws 25 cases in `make test`, and 350 more in `make test-full`.
"""

import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim import config as config_lib
from slim import train
from slim.data import create_dataset, create_vocabulary
from slim.runs import config_json, metrics, restoring, weights, workdir
from slim.runs.checkpoints import Checkpointer
from slim.settings import SettingError
from slim.types import TrainState
from tests.commands import list_files, run_command
from tests.data.files import make_tokenizer
from tests.helpers import make_config
from tests.mistakes.cases import CONFIG, ROOT
from tests.runs.weights.cases import make_params

_CONFIG_TEXT = (ROOT / "configs" / "quickstart.py").read_bytes()


def fuzz(check, **strategies):
  """Makes two tests of a check: of a few cases, and of many."""

  def make(count):
    limits = settings(
      max_examples=count, deadline=None, suppress_health_check=HealthCheck
    )
    return limits(given(**strategies)(check))

  return make(25), pytest.mark.full(make(350))


# A seed and not the places themselves, of which hypothesis prefers a few.
_SEEDS = st.integers(0, 2**32 - 1)


def damage(seed, data):
  """Returns bytes with random damage."""
  random = np.random.default_rng(seed)
  kind = random.choice(["flip", "cut", "insert", "delete", "swap"])
  i, j = random.integers(0, len(data) + 1, 2)
  new = random.bytes(random.integers(1, 20))
  if kind == "flip" and data:
    i %= len(data)
    return data[:i] + bytes([data[i] ^ 1 << new[0] % 8]) + data[i + 1 :]
  if kind == "cut":
    return data[:i]
  if kind == "insert":
    return data[:i] + new + data[i:]
  if kind == "delete":
    return data[:i] + data[i + len(new) :]
  return data[j:] + data[:j]


def refused_or_done(call, allowed=ValueError):
  """Calls a function; an error must be a user's, of one line."""
  try:
    return call()
  except allowed as error:
    assert str(error) and "\n" not in str(error), str(error)
    return None


def check_command(*arguments):
  """Runs a command that trains nothing, and asserts how it ends."""
  before = list_files(".")
  done = run_command(train.main, *arguments, "--workdir=run", "--print_config")
  if done.code:
    assert done.errors.startswith("error: "), done.errors
    assert done.errors.count("\n") == 1 and not done.output, done.errors
  assert list_files(".") == before


# Overrides on the command line.
_NAMES = sorted(config_lib.list_declarations())
_VALUES = st.one_of(
  st.integers().map(str),
  st.floats().map(str),
  st.sampled_from(["None", "True", "", "()", "1,2", "-1", "1e999", "linear"]),
  st.text(max_size=12),
)


def check_overrides(folder, names, values, letter):
  """Checks settings of a random value, one of them misspelt."""
  flags = [f"--config.{n}={v}" for n, v in zip(names, values, strict=True)]
  if letter is not None:
    flags[0] = flags[0].replace(letter, "", 1)
  check_command(CONFIG, *flags)


test_overrides, test_many_overrides = fuzz(
  check_overrides,
  names=st.lists(st.sampled_from(_NAMES), min_size=2, max_size=2, unique=True),
  values=st.lists(_VALUES, min_size=2, max_size=2),
  letter=st.sampled_from([None, None, "a", "e", "."]),
)


def check_config_file(folder, seed):
  """Checks a config file with random damage."""
  pathlib.Path("config.py").write_bytes(damage(seed, _CONFIG_TEXT))
  check_command("--config=config.py")


test_config_files, test_many_config_files = fuzz(check_config_file, seed=_SEEDS)


def check_data(folder, name, seed):
  """Checks a file of data with random damage."""
  path = pathlib.Path(name)
  tokens = np.arange(100, dtype=np.uint16)
  if name == "x.json":
    make_tokenizer(path)
  elif name == "x.txt":
    path.write_bytes(b"some text " * 20)
  else:
    (np.save if name == "x.npy" else np.savez)(path, tokens)
  path.write_bytes(damage(seed, path.read_bytes()))

  def read():
    if name == "x.json":
      return create_vocabulary("tokens", vocab_size=400, tokenizer=path)
    dataset = create_dataset(
      "text" if name == "x.txt" else "tokens",
      split="train",
      sequence_length=4,
      batch_size=2,
      seed=0,
      vocab_size=256,
      path=path,
      order="random",
    )
    return dataset.fingerprint, dataset.batch(3)

  refused_or_done(read, SettingError)


test_data, test_many_data = fuzz(
  check_data,
  name=st.sampled_from(["x.npy", "x.npz", "x.txt", "x.json"]),
  seed=_SEEDS,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """The folder of a run with two checkpoints, and its states by step."""
  folder = tmp_path_factory.mktemp("run")
  record = config_json.write_config(str(folder), make_config(), "data")
  checkpointer = Checkpointer(str(folder), 2)
  states = {}
  for step in (1, 2):
    # Large enough that it is not in a file with checksums of its own.
    params = {"layer_0": {"w": jnp.sin(jnp.arange(2000.0)) + step}}
    states[step] = TrainState(jnp.int32(step), params, ())
    checkpointer.save(states[step], record)
  checkpointer.close()
  lines = [b'{"step": 1, "eval/loss": 2.5}\n', b'{"step": 2}\n']
  (folder / "metrics.jsonl").write_bytes(b"".join(lines))
  return folder, states


def check_run(run, tmp_path, seed):
  """Checks a run with random damage in one file; it is read, and kept."""
  whole, states = run
  folder = tmp_path / "copy"
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(whole, folder)
  files = sorted(x for x in folder.rglob("*") if x.is_file())
  file = files[seed % len(files)]
  file.write_bytes(damage(seed, file.read_bytes()))
  before = list_files(folder)
  abstract = jax.eval_shape(lambda: states[1])
  restored = refused_or_done(
    lambda: restoring.restore_newest(str(folder), abstract)
  )
  if restored is not None:  # Right, and from the checkpoint it is named for.
    state = restored[0]
    right = states[int(state.step)]
    np.testing.assert_array_equal(
      state.params["layer_0"]["w"], right.params["layer_0"]["w"]
    )
  refused_or_done(lambda: workdir.check_workdir(str(folder), make_config()))
  refused_or_done(lambda: config_json.read_processes(str(folder)))
  refused_or_done(lambda: metrics.read_run(str(folder), 2, 1))
  assert list_files(folder) == before


test_runs, test_many_runs = fuzz(check_run, seed=_SEEDS)


def check_metrics(folder, lines):
  """Checks a file of random lines, some of them JSON."""
  pathlib.Path("metrics.jsonl").write_bytes(b"\n".join(lines))
  found = refused_or_done(lambda: metrics.read_records("metrics.jsonl"))
  assert found is None or all(type(x["step"]) is int for x in found)


_JSON = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
  lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
  max_leaves=5,
)
test_metrics, test_many_metrics = fuzz(
  check_metrics,
  lines=st.lists(
    st.binary(max_size=30)
    | _JSON.map(lambda x: json.dumps(x).encode())
    | _JSON.map(lambda x: json.dumps({"step": x}).encode())
    | st.integers().map(lambda x: b'{"step": %d}' % x)
    | st.just(b"[" * 10_000),
    max_size=4,
  ),
)


def check_weights(folder, seed):
  """Checks a file of weights with random damage."""
  if not os.path.exists("good.safetensors"):
    config = make_config(model__width=64)
    weights.save_weights("good.safetensors", make_params(), config, 7)
  good = pathlib.Path("good.safetensors").read_bytes()
  pathlib.Path("bad.safetensors").write_bytes(damage(seed, good))
  refused_or_done(lambda: weights.load_weights("bad.safetensors"))


test_weights, test_many_weights = fuzz(check_weights, seed=_SEEDS)
