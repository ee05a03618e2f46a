"""Turns a text into tokens, with a tokenizer.json of Hugging Face.

python scripts/tokenize_text.py --tokenizer=tokenizer.json --input=text.txt \
    --output=tokens.npy
python -m slim.train --config=configs/text_slim.py --config.data.name=tokens \
    --config.data.path=tokens.npy --config.data.vocab_size=50257 \
    --config.data.tokenizer=tokenizer.json --workdir=runs/tokens
"""

import io

import numpy as np
from absl import flags

from slim import command_line
from slim.data.tokenizer import Tokenizer
from slim.files import local_path, write_file

_BLOCK = 2**22  # Bytes that are tokenized at a time, to the end of a line.


def tokenize(tokenizer: str, source: str, output: str) -> None:
  """Writes the tokens of a text to a .npy file.

  Args:
    tokenizer: The tokenizer.json.
    source: The text, in UTF-8.
    output: The file, which must not exist.

  Raises:
    ValueError: If a file cannot be read or written.
  """
  output = command_line.check_output(output)
  try:
    vocabulary = Tokenizer(tokenizer, vocab_size=2**31 - 1)
  except ValueError as error:
    raise ValueError(f"--{error}") from error
  parts = []
  try:
    with open(local_path("--input", source), "rb") as file:
      done = 0
      while block := b"".join(file.readlines(_BLOCK)):
        try:
          parts.append(vocabulary.encode(block))
        except ValueError as error:
          raise ValueError(
            f"--input: {source}, from byte {done}, {error}"
          ) from error
        done += len(block)
  except OSError as error:
    raise ValueError(
      f"--input: cannot read {source}: {error.strerror}"
    ) from error
  tokens = np.concatenate(parts) if parts else np.zeros(0, np.int32)
  if not tokens.size:
    raise ValueError(f"--input: {source} has no tokens")
  smallest = np.min_scalar_type(int(tokens.max()))
  data = io.BytesIO()
  np.save(data, tokens.astype(smallest))
  write_file(output, data.getvalue(), "--output")
  print(f"{output}: {tokens.size:,} tokens, the largest is {tokens.max()}")


def main(argv: list[str] | None = None) -> None:
  """Runs the command line.

  Args:
    argv: The program and its arguments; None: those of this process.
  """
  tokenizer = flags.DEFINE_string(
    "tokenizer", None, "The tokenizer.json.", required=True
  )
  source = flags.DEFINE_string("input", None, "The text.", required=True)
  output = flags.DEFINE_string(
    "output", None, "The .npy file to write.", required=True
  )
  command_line.run_script(
    lambda _: tokenize(tokenizer.value, source.value, output.value),
    argv,
    known_only=False,
  )


if __name__ == "__main__":
  main()
