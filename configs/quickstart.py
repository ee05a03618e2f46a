"""Copying at a small size: learned in about two minutes on two cores.

The task is that of the paper (Likhosherstov et al., 2021, section on Copying)
with shorter sequences and fewer tokens; `configs/copying_slim.py` has its own
sizes. Nothing is downloaded.

Command:   python -m slim.train --config=configs/quickstart.py \
             --workdir=runs/quickstart
Hardware:  2 cores of an AMD EPYC, shared with other work.
Time:      about 2 minutes so (2026-11-22, jax 0.10.2).
Expected:  eval/accuracy 0.9973 after 950 steps (0.9955 after 475).
"""

import ml_collections

from slim.config import base, is_smoke


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the settings; "smoke" trains for seconds.

  Args:
    arg: "" or "smoke".

  Returns:
    All settings.
  """
  smoke = is_smoke(arg)
  config = base()
  config.model.width = 128
  config.model.num_layers = 1 if smoke else 2
  config.model.num_heads = 4
  config.model.norm = "pre"
  config.data.name = "copying"
  config.data.sequence_length = 128
  config.data.vocab_size = 64
  config.gradient.method = "slim"
  config.gradient.chunk_size = 32
  config.optimizer.learning_rate = 3e-3
  config.train.batch_size = 16
  config.train.num_steps = 4 if smoke else 950
  config.train.log_every = 2 if smoke else 50
  config.train.eval_every = 2 if smoke else 475
  config.train.checkpoint_every = 2 if smoke else 475
  return config
