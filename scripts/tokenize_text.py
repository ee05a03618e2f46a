"""Turns a text into tokens, with a tokenizer.json of Hugging Face.

python scripts/tokenize_text.py --tokenizer=tokenizer.json --input=text.txt \
    --output=tokens.npy
python -m slim.train --config=configs/text_slim.py --config.data.name=tokens \
    --config.data.path=tokens.npy --config.data.vocab_size=50257 \
    --config.data.tokenizer=tokenizer.json --workdir=runs/tokens

It reads 4 MiB of the text at a time, to the end of a line. A tokenizer that
adds something in front of a text does so each time. Tokens are stored in the
smallest dtype for all that the tokenizer has.
"""

from collections.abc import Iterator
from typing import IO

import numpy as np
from absl import flags
from numpy.lib import format as npy

from slim import command_line
from slim.data.tokenizer import Tokenizer
from slim.files import local_path, open_to_replace

_BLOCK = 2**22  # Bytes.


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
  dtype = np.min_scalar_type(max(vocabulary.size - 1, 0))
  number, largest = 0, 0
  with open_to_replace(output, "--output") as file:
    _write_header(file, number, dtype)
    for tokens in _read_tokens(vocabulary, source):
      file.write(tokens.astype(dtype).tobytes())
      number += tokens.size
      largest = max(largest, int(tokens.max(initial=0)))
    if not number:
      raise ValueError(f"--input: {source} has no tokens")
    file.seek(0)
    _write_header(file, number, dtype)
  print(f"{output}: {number:,} tokens, the largest is {largest}")


def _read_tokens(vocabulary: Tokenizer, source: str) -> Iterator[np.ndarray]:
  """Yields the tokens of a text, block by block."""
  try:
    with open(local_path("--input", source), "rb") as file:
      done = 0
      while block := b"".join(file.readlines(_BLOCK)):
        try:
          yield vocabulary.encode(block)
        except ValueError as error:
          raise ValueError(
            f"--input: {source}, from byte {done}, {error}"
          ) from error
        done += len(block)
  except OSError as error:
    raise ValueError(
      f"--input: cannot read {source}: {error.strerror}"
    ) from error


def _write_header(file: IO[bytes], number: int, dtype: np.dtype) -> None:
  """Writes the header of a .npy file; NumPy leaves room for larger numbers."""
  header = {"shape": (number,), "fortran_order": False}
  npy.write_array_header_1_0(
    file, header | {"descr": npy.dtype_to_descr(dtype)}
  )


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
