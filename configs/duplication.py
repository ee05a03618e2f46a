"""The duplication task of the Reformer paper, in minutes on a CPU.

Sequences `0 w 0 w` of 127 symbols, loss and accuracy on the second w; there T =
1024, here 290. One layer whose queries are its keys: with 4 rounds of hashing
here, with all pairs by `--config.model.bucket_size=290`. What was trained with
one number of rounds is evaluated with others by `experiments/duplication.py`.

Command:   python -m slim.train --config=configs/duplication.py \
             --workdir=runs/duplication
Hardware:  2 cores of an Intel Xeon at 2.5 GHz.
Time:      5 minutes.
Expected:  accuracy 1.000 (2026-11-26).
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
  config.model.width = 32 if smoke else 256
  config.model.num_layers = 1
  config.model.num_heads = 2 if smoke else 4
  config.model.mlp_width = 32 if smoke else 256
  config.model.attention = "lsh"
  config.model.bucket_size = 16
  config.model.num_hashes = 4
  config.model.positions = "axial"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "copying"
  # What is copied lies 144 tokens back: 8 whole rows of 18 axial positions, or
  # one layer, in which rows and columns add up, could not say where.
  config.data.sequence_length = 64 if smoke else 290
  config.data.vocab_size = 128
  config.gradient.method = "full"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 100
  config.train.batch_size = 2 if smoke else 16
  config.train.num_steps = 4 if smoke else 800
  config.train.log_every = 2 if smoke else 50
  config.train.eval_every = 2 if smoke else 400
  config.train.checkpoint_every = 2 if smoke else 200
  return config
