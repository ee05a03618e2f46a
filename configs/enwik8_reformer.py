"""Enwik8 byte by byte, by a Reformer of the size of `enwik8_slim.py`.

The data and the sizes are those of the SLiM paper's configuration III. Local
and LSH attention in turns, reversible layers, axial positions. While training,
the first 100 sequences of the validation split are evaluated; `slim.evaluate`
does all of it.

Command:   python -m slim.train --config=configs/enwik8_reformer.py \
             --workdir=runs/enwik8_reformer
Hardware:  not run yet.
Time:      not run yet.
Expected:  not run yet.
"""

import ml_collections

from slim.config import base, is_smoke


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """Returns the settings; "smoke" trains for seconds, on this very file.

  Args:
    arg: "" or "smoke".

  Returns:
    All settings.
  """
  smoke = is_smoke(arg)
  config = base()
  config.seed = 42
  config.model.width = 64 if smoke else 1024
  config.model.num_layers = 2 if smoke else 3
  config.model.num_heads = 2 if smoke else 16
  config.model.attention = "local,lsh"
  config.model.bucket_size = 16 if smoke else 64
  config.model.num_hashes = 2 if smoke else 4
  config.model.window = 16 if smoke else 128
  config.model.reversible = True
  config.model.mlp_chunk_size = 32 if smoke else 512
  config.model.positions = "axial"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "enwik8"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 4096
  config.data.order = "consecutive"
  config.gradient.method = "full"
  config.optimizer.learning_rate = 2e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 1000
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 2 if smoke else 1
  config.train.num_steps = 4 if smoke else 100_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.eval_batches = 100
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
