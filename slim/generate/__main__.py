"""Generate text from a run: `python -m slim.generate --workdir=runs/x`.

Prints the prompt and its continuation while it is drawn. `--score=FILE` prints
the log-likelihood of a given text instead.
"""

import sys

import jax
from absl import flags

from slim import command_line
from slim.data import is_packed
from slim.generate.from_run import (
  check_weights,
  describe_score,
  encode,
  print_samples,
  vocabulary_of,
)
from slim.generate.sampling import Sampling
from slim.runs import choosing
from slim.runs.compilation_cache import define_cache, use_cache
from slim.runs.trained import load_run


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  workdir = flags.DEFINE_string(
    "workdir", None, "Folder of the run.", required=True
  )
  prompt = flags.DEFINE_string(
    "prompt",
    None,
    "Text to continue; -: read it from standard input. Default: a newline; a "
    "run on documents has none.",
  )
  length = flags.DEFINE_integer(
    "length",
    256,
    "Tokens to draw.",
    upper_bound=2**31 - 1,
  )
  temperature = flags.DEFINE_float(
    "temperature", 1.0, "Divides the logits; 0: the most probable token."
  )
  top_k = flags.DEFINE_integer(
    "top_k",
    0,
    "Draw one of so many most probable tokens; 0: of all.",
    upper_bound=2**31 - 1,
  )
  top_p = flags.DEFINE_float(
    "top_p",
    1.0,
    "Draw one of the most probable tokens that have this probability together.",
  )
  min_p = flags.DEFINE_float(
    "min_p", 0.0, "Smallest probability, as a share of the largest."
  )
  seed = flags.DEFINE_integer(
    "seed", 0, "Determines what is drawn.", lower_bound=0, upper_bound=2**32 - 1
  )
  samples = flags.DEFINE_integer(
    "samples", 1, "Continuations to draw.", lower_bound=1
  )
  scored = flags.DEFINE_string(
    "score", None, "File whose log-likelihood is computed instead."
  )

  step = flags.DEFINE_string("step", "latest", choosing.HELP)
  tokenizer = flags.DEFINE_string(
    "tokenizer",
    None,
    "New location of the tokenizer; replaces config.data.tokenizer.",
  )
  cache = define_cache()

  def run() -> None:
    use_cache(cache.value)
    trained = load_run(workdir.value, step.value)
    check_weights(trained)
    vocabulary = vocabulary_of(trained, tokenizer.value)
    with jax.default_matmul_precision(trained.config.matmul_precision):
      if scored.value is not None:
        print(describe_score(trained, vocabulary, scored.value))
        return
      if prompt.value is None and is_packed(trained.config.data):
        raise ValueError(
          "--prompt is missing: a run on documents has not learned how they "
          "begin"
        )
      given = "\n" if prompt.value is None else prompt.value
      text = (
        sys.stdin.buffer.read()
        if given == "-"
        else given.encode(errors="surrogateescape")
      )
      print_samples(
        trained,
        vocabulary,
        encode(vocabulary, "--prompt", text),
        length=length.value,
        sampling=Sampling(
          temperature.value, top_k.value, top_p.value, min_p.value
        ),
        seed=seed.value,
        num_samples=samples.value,
      )

  command_line.run(run, argv)


if __name__ == "__main__":
  main()
