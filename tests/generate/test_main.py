"""The command that generates from a run, and scores files."""

import io
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.generate import Sampling, __main__, generate, score
from slim.generate.from_run import check_weights
from slim.runs.checkpoints import Checkpointer
from slim.runs.config_json import write_config
from slim.runs.trained import Trained
from slim.training import build
from slim.types import TrainState
from tests.commands import assert_refused, run_command
from tests.helpers import make_config

pytestmark = pytest.mark.usefixtures("compilation_cache")

SIZES = {
  "model__width": 16,
  "model__num_layers": 1,
  "model__num_heads": 2,
  "data__sequence_length": 16,
  "gradient__chunk_size": 5,
}
RUNS = {
  "text": {"data__name": "text", "data__path": "nowhere"},
  "numbers": {"data__vocab_size": 8},
  "lsh": {
    "data__name": "text",
    "data__path": "nowhere",
    "model__attention": "lsh",
    "model__positions": "learned",
    "gradient__method": "full",
  },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, compilation_cache):
  """Folders of runs with a checkpoint, their models and parameters."""
  found = {}
  for name, settings in RUNS.items():
    config = make_config(**SIZES | settings)
    folder = str(tmp_path_factory.mktemp(name))
    record = write_config(folder, config, "data")
    experiment = build.create_experiment(config)
    state = jax.jit(lambda e=experiment: build.init(e))()
    checkpointer = Checkpointer(folder, 1)
    checkpointer.save(state._replace(step=jnp.int32(3)), record)
    checkpointer.close()
    found[name] = folder, experiment.model, state.params
  return found


def call(runs, name, *arguments):
  """Runs the command on a run."""
  return run_command(__main__.main, f"--workdir={runs[name][0]}", *arguments)


def right(runs, name, prompt, length, sampling=Sampling()):  # noqa: B008
  """What a seed of 5 draws."""
  _, model, params = runs[name]
  prompt = np.tile(np.int32(prompt), (2, 1))
  key = jax.random.key(5)
  return generate(
    model, params, prompt, length=length, key=key, sampling=sampling
  )


def test_text_is_that_of_the_function(runs):
  """Fails if the prompt, the seed or a setting does not reach the model."""
  prompt = "Öl".encode()
  line = ("--prompt=Öl", "--length=40", "--seed=5", "--top_k=9")
  samples = [
    (prompt + bytes(row.tolist())).decode(errors="replace")
    for row in right(runs, "text", [*prompt], 40, Sampling(top_k=9))
  ]
  done = call(runs, "text", *line)
  assert (done.code, done.errors) == (0, "")
  assert done.output == samples[0] + "\n"
  done = call(runs, "text", *line, "--samples=2")
  assert done.output == "".join(
    f"--- sample {i} of 2\n{text}\n" for i, text in enumerate(samples, 1)
  )


def test_numbers_continue_numbers(runs, monkeypatch):
  """Fails if tokens that are no text are read or written as bytes."""
  line = ("--prompt=-", "--length=4", "--seed=5")
  monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"0, 3\n7")))
  done = call(runs, "numbers", *line)
  [*_, last] = right(runs, "numbers", [0, 3, 7], 4)[:1]
  assert done.output.split() == ["0", "3", "7", *map(str, last)]


def test_a_file_is_scored(runs, tmp_path):
  """Fails if a score is not that of the function, or of fewer tokens."""
  text = np.random.default_rng(0).bytes(40)
  (tmp_path / "text").write_bytes(text)
  for name, how in (
    ("text", "one state carried through the file"),
    ("lsh", "windows of 16 bytes from the zero state"),
  ):
    _, model, params = runs[name]
    tokens = np.frombuffer(text, np.uint8)[None]
    size = 39 if name == "text" else 16
    nats = [
      score(model, params, tokens[:, i : i + size + 1], chunk_size=size)
      for i in range(0, 39, size)
    ]
    mean = np.concatenate(nats, 1).mean()
    done = call(runs, name, f"--score={tmp_path}/text")
    assert done.output == (
      f"step 3  {mean:.4f} nats per byte  {mean / math.log(2):.4f} bits per "
      f"byte  {mean * 39:.1f} nats in all  (39 bytes of text, {how})\n"
    )


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("text", ["--prompt="], "--prompt must have one byte or more"),
    ("text", ["--length=0"], "--length must be a positive integer, got 0"),
    ("text", ["--top_p=2"], "--top_p must be in (0, 1], got 2.0"),
    ("text", ["--temperature=-1"], "--temperature must be >= 0, got -1.0"),
    ("text", ["--score=none"], "--score must be a file, cannot read none: No"),
    ("lsh", ["--length=99"], "--length must be at most 15, as the model has"),
    ("numbers", ["--prompt=1 8"], "--prompt must be numbers from 0 to 7"),
    ("numbers", ["--prompt=1 x"], "with spaces or commas between, got 'x'"),
    ("numbers", ["--tokenizer=no.json"], "config.data.tokenizer: cannot read"),
    ("numbers", ["--step=4"], "got '4'"),
  ],
)
def test_mistakes_end_in_one_line(runs, name, arguments, message):
  """Fails if a mistake is a traceback, or text is printed before it."""
  assert_refused(call(runs, name, *arguments), message)


def test_weights_that_are_not_finite_are_refused():
  """Fails if nonsense is drawn from a run that has diverged."""
  state = TrainState(jnp.int32(3), {"w": jnp.array([1, jnp.nan])}, ())
  with pytest.raises(ValueError, match="weights of step 3 are not finite"):
    check_weights(Trained(None, None, state, {}))


def test_a_byte_is_not_scored_alone(runs, tmp_path):
  """Fails if a mean over no tokens is printed as nan."""
  (tmp_path / "one").write_bytes(b"a")
  done = call(runs, "text", f"--score={tmp_path}/one")
  assert_refused(done, "--score must have two bytes or more")
