"""Time of a generated token, early and late in a sequence.

A Performer and models with other states draw tokens after a short prompt, and
after a long one. The state of linear attention and of windows has one size, so
their tokens cost the same at any position.

  python experiments/generation_speed.py [--quick]
"""

import statistics
import time

import jax
import numpy as np
from arguments import define_count, define_quick
from record import print_table, save

from slim import command_line
from slim.generate import stream
from slim.models import create_model
from slim.training.shapes import tree_bytes

_QUICK = define_quick("Small models, positions up to 2,000.")
_ROUNDS = define_count("rounds", 9, "Timings of each position.")
_TOKENS = 256  # Drawn in each timing.
_MODELS = {
  "Performer": {"attention": "linear"},
  "local": {"attention": "local", "positions": "rotary"},
  "Transformer": {"attention": "chunked_softmax", "positions": "rotary"},
}


def main() -> None:
  """Measures, prints and saves."""
  positions = (500, 2_000) if _QUICK.value else (1_000, 100_000)
  width = 64 if _QUICK.value else 512
  rows = []
  for name, settings in _MODELS.items():
    model = create_model(
      vocab_size=256,
      width=width,
      num_layers=3,
      num_heads=width // 64,
      **settings,
    )
    params = jax.jit(model.init)(jax.random.key(0))
    if model.state_kind == "growing":  # Its cache is as long as it must be.
      rows += measure(name, model, params, positions[:1])
    else:
      rows += measure(name, model, params, positions)
    print_table(rows)
  save("generation_speed", rows, quick=_QUICK.value)


def measure(name, model, params, positions):
  """Times tokens after prompts that end at each of the positions, in turns."""
  length = (1 + _ROUNDS.value) * _TOKENS
  streams = {
    position: stream(
      model,
      params,
      np.random.default_rng(0).integers(0, 256, (1, position)),
      length=length,
      key=jax.random.key(0),
      block_size=_TOKENS,
    )
    for position in positions
  }
  for tokens in streams.values():
    next(tokens)  # Reads the prompt, too.
  seconds = {position: [] for position in positions}
  for _ in range(_ROUNDS.value):
    for position, tokens in streams.items():
      start = time.perf_counter()
      next(tokens)
      seconds[position].append(time.perf_counter() - start)
  median = {k: statistics.median(v) for k, v in seconds.items()}
  return [
    {
      "model": name,
      "position": position,
      "state_bytes": state_bytes(model, position + length),
      "tokens_per_second": _TOKENS / median[position],
      "over_first": median[position] / median[positions[0]],
    }
    for position in positions
  ]


def state_bytes(model, length):
  """Returns the size of the state that has room for so many tokens."""
  room = length if model.state_kind == "growing" else None
  state = jax.eval_shape(lambda: model.init_state(1, max_tokens=room))
  return tree_bytes(state)


if __name__ == "__main__":
  command_line.run(main)
