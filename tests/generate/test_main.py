"""The command that generates from a run, and scores files."""

import io
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from slim.generate import Sampling, __main__, from_run, generate, score
from slim.generate.from_run import check_weights, vocabulary_of
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
  "lines": {
    "data__name": "text",
    "data__path": "nowhere",
    "data__pack_documents": 10,
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


def test_documents_are_scored_apart(runs, tmp_path):
  """Fails if a document sees another, or its first byte counts."""
  path, (folder, model, params) = tmp_path / "text", runs["lines"]
  documents = b"abc\n", b"bca\n", b"cabd"
  path.write_bytes(documents[0] + b"\n" + documents[1] + documents[2])
  tokens = np.stack([np.frombuffer(x, np.uint8) for x in documents])
  total = score(model, params, tokens).sum(dtype=float)
  found = run_command(
    __main__.main, f"--workdir={folder}", f"--score={path}"
  ).output
  assert f"{total / 9:.4f} nats per byte" in found
  assert "(9 bytes of text, one state carried through the file, docum" in found
  path.write_bytes(b"\n\n\n")
  done = run_command(__main__.main, f"--workdir={folder}", f"--score={path}")
  assert_refused(done, "--score must have documents of two bytes or more")


def test_a_document_ends_with_its_separator(runs, monkeypatch):
  """Fails if text is drawn that no training has seen."""
  drawn = [np.array([[97, 98], [99, 10]]), np.array([[10, 99], [98, 99]])]
  monkeypatch.setattr(
    from_run,
    "stream",
    lambda model, params, prompt, **_: (x[: len(prompt)] for x in drawn),
  )
  done = call(runs, "lines", "--prompt=x", "--samples=2")
  assert done.output == ("--- sample 1 of 2\nxab\n\n--- sample 2 of 2\nxc\n\n")
  assert call(runs, "lines", "--prompt=x").output == "xab\n\n"


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("text", ["--prompt="], "--prompt must have one byte or more"),
    ("text", ["--length=0"], "--length must be a positive integer, got 0"),
    ("text", ["--top_p=2"], "--top_p must be in (0, 1], got 2.0"),
    (
      "text",
      ["--temperature=-1"],
      "--temperature must be finite and >= 0, got",
    ),
    ("text", ["--score=none"], "--score must be a file, cannot read none: No"),
    ("lsh", ["--length=99"], "--length must be at most 15, as the model has"),
    ("numbers", ["--prompt=1 8"], "--prompt must be numbers from 0 to 7"),
    ("numbers", ["--prompt=1 x"], "with spaces or commas between, got 'x'"),
    (
      "numbers",
      ["--tokenizer=no.json"],
      "--tokenizer must be left out, as th",
    ),
    ("lines", [], "--prompt is missing: a run on documents has not learned"),
    ("lines", ["--tokenizer=no.json"], "--tokenizer must be left out, as th"),
    ("numbers", ["--step=4"], "got '4'"),
  ],
)
def test_mistakes_end_in_one_line(runs, name, arguments, message):
  """Fails if a mistake is a traceback, or text is printed before it."""
  assert_refused(call(runs, name, *arguments), message)


def test_a_tokenizer_that_has_moved_can_be_named():
  """Fails if the error does not say how to go on."""
  config = make_config(data__name="tokens", data__tokenizer="gone.json")
  trained = Trained(config, None, None, {})
  message = "^config.data.tokenizer: cannot read .*moved, pass --tokenizer$"
  with pytest.raises(ValueError, match=message):
    vocabulary_of(trained, None)
  with pytest.raises(ValueError, match="^--tokenizer: cannot read 'no.json'"):
    vocabulary_of(trained, "no.json")


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
