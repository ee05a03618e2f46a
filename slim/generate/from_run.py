"""The model of a run: what it generates, and how probable a text is to it."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from slim.data import Vocabulary, create_vocabulary, positions_between
from slim.files import local_path
from slim.generate.decoding import stream
from slim.generate.sampling import Sampling
from slim.generate.scoring import score
from slim.runs.trained import Trained
from slim.settings import SettingError
from slim.training import build


def vocabulary_of(trained: Trained, tokenizer: str | None) -> Vocabulary:
  """Returns what the tokens of a run stand for.

  Args:
    trained: The run.
    tokenizer: Where its tokenizer is now; None: where it was in training.

  Raises:
    ValueError: If the tokenizer cannot be read, knows more tokens, or is not
      needed.
  """
  data = trained.config.data
  if tokenizer is not None and data.name != "tokens":
    raise ValueError(
      f"--tokenizer must be left out, as the tokens of {data.name!r} need "
      f"none, got {tokenizer!r}"
    )
  try:
    return create_vocabulary(
      data.name,
      vocab_size=data.vocab_size,
      tokenizer=tokenizer or data.tokenizer,
    )
  except SettingError as error:
    if error.setting != "tokenizer":
      raise ValueError(f"config.data.{error}") from error
    if tokenizer is not None:
      raise ValueError(f"--{error}") from error
    is_there = os.path.exists(local_path("tokenizer", data.tokenizer))
    advice = "" if is_there else "; if it has moved, pass --tokenizer"
    raise ValueError(f"config.data.{error}{advice}") from error


def check_weights(trained: Trained) -> None:
  """Raises if a weight is not finite, which no sampling would show.

  Args:
    trained: The run.

  Raises:
    ValueError: It names the step.
  """
  is_finite = [
    jnp.isfinite(x).all() for x in jax.tree.leaves(trained.state.params)
  ]
  if not all(jax.device_get(is_finite)):
    raise ValueError(
      f"--workdir: the weights of step {trained.state.step} are not finite: "
      "choose another --step"
    )


def encode(vocabulary: Vocabulary, flag: str, text: bytes) -> np.ndarray:
  """Returns the tokens of what a flag names, [T], int32.

  Args:
    vocabulary: What tokens stand for.
    flag: The flag, for the error.
    text: What it names.

  Raises:
    ValueError: If the text is empty, or has other things than tokens.
  """
  try:
    tokens = vocabulary.encode(text)
  except ValueError as error:
    raise ValueError(f"{flag} {error}") from error
  if not tokens.size:
    raise ValueError(
      f"{flag} must have one {vocabulary.unit} or more, got an empty text"
    )
  return tokens


def print_samples(
  trained: Trained,
  vocabulary: Vocabulary,
  prompt: np.ndarray,
  *,
  length: int,
  sampling: Sampling,
  seed: int,
  num_samples: int,
) -> None:
  """Prints a prompt and its continuations; one alone as it is drawn.

  If documents end with a separator, a continuation ends with it, too: what
  follows has not been learned.

  Args:
    trained: The model.
    vocabulary: What its tokens stand for.
    prompt: [P], int32.
    length: Tokens to draw.
    sampling: How tokens are drawn.
    seed: Determines what is drawn.
    num_samples: How many continuations.

  Raises:
    ValueError: If an argument does not fit; it names the flag.
  """
  try:
    blocks = stream(
      trained.experiment.model,
      trained.state.params,
      np.tile(prompt, (num_samples, 1)),
      length=length,
      key=jax.random.key(seed),
      sampling=sampling,
    )
  except ValueError as error:
    raise ValueError(f"--{error}") from error
  separator = trained.config.data.pack_documents
  if num_samples == 1:
    decoder = vocabulary.start()
    _print(decoder.decode(prompt))
    for block in blocks:
      tokens = _up_to(separator, block[0])
      _print(decoder.decode(tokens))
      if separator in tokens:
        break
    _print(decoder.finish() + "\n")
    return
  samples = np.concatenate(list(blocks), 1)
  for number, sample in enumerate(samples, 1):
    decoder = vocabulary.start()
    sample = _up_to(separator, sample)
    text = decoder.decode(np.concatenate([prompt, sample])) + decoder.finish()
    _print(f"--- sample {number} of {num_samples}\n{text}\n")


def describe_score(trained: Trained, vocabulary: Vocabulary, path: str) -> str:
  """Scores a file, and says so in one line.

  Args:
    trained: The model.
    vocabulary: What its tokens stand for.
    path: The file.

  Returns:
    The line.

  Raises:
    ValueError: If the file cannot be read, or has fewer than two tokens.
  """
  path = local_path("--score", path)
  try:
    with open(path, "rb") as file:
      text = file.read()
  except OSError as error:
    raise ValueError(
      f"--score must be a file, cannot read {path}: {error.strerror}"
    ) from error
  tokens = encode(vocabulary, "--score", text)
  if tokens.size < 2:
    raise ValueError(
      f"--score must have two {vocabulary.unit}s or more, as the first one is "
      f"not scored, got one in {path}"
    )
  model, window = trained.experiment.model, trained.config.data.sequence_length
  length = tokens.size - 1
  carried = model.state_kind != "none" and not (
    model.max_tokens is not None and length > model.max_tokens
  )
  if carried:
    starts, size = range(1), length
    how = "one state carried through the file"
  else:
    starts, size = range(0, length, window), window
    how = f"windows of {window} {vocabulary.unit}s from the zero state"
  separator = trained.config.data.pack_documents
  positions = None
  if separator is not None:
    positions = positions_between(tokens, separator)[None]
    how += ", documents apart"
  found = [
    score(
      model,
      trained.state.params,
      tokens[None, start : start + size + 1],
      chunk_size=build.evaluation_chunk(trained.config),
      positions=None
      if positions is None
      else positions[:, start : start + size + 1],
    )
    for start in starts
  ]
  scores = np.concatenate(found, 1)[0]
  if positions is not None:  # The first token of a document is not predicted.
    scores = scores[positions[0, 1:] != 0]
  if not scores.size:
    raise ValueError(
      f"--score must have documents of two {vocabulary.unit}s or more, which "
      f"end with the {vocabulary.unit} {separator}; there is none in {path}"
    )
  total, count = float(scores.sum(dtype=np.float64)), scores.size
  nats = total / count
  return (
    f"step {trained.state.step}  {nats:.4f} nats per {vocabulary.unit}  "
    f"{nats / math.log(2):.4f} bits per {vocabulary.unit}  "
    f"{total:.1f} nats in all  ({count:,} {vocabulary.unit}s of "
    f"{os.path.basename(path)}, {how})"
  )


def _up_to(separator, tokens):
  """Returns the tokens up to the first separator, and with it."""
  ends = np.flatnonzero(tokens == separator)
  return tokens[: ends[0] + 1] if ends.size else tokens


def _print(text):
  """Prints at once."""
  print(text, end="", flush=True)
