"""Tiny Shakespeare, byte by byte, by a Reformer.

Of the size of `shakespeare_slim.py`, on the same text; local and LSH attention
in turns, reversible layers.

Command:   python -m slim.train --config=configs/shakespeare_reformer.py \
             --workdir=runs/shakespeare_reformer
Hardware:  2 cores of an Intel Xeon at 2.5 GHz.
Time:      2.5 s a step (on cores that were also at other work); with
           --config.train.num_steps=400, as was run, 17 minutes.
Expected:  eval/bpc 2.88 after these 400 (2026-11-26, jax 0.10.2).
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
  config.model.width = 64 if smoke else 256
  config.model.num_layers = 2
  config.model.num_heads = 2 if smoke else 4
  config.model.attention = "local,lsh"
  config.model.bucket_size = 16 if smoke else 64
  config.model.num_hashes = 2 if smoke else 4
  config.model.window = 16 if smoke else 128
  config.model.reversible = True
  config.model.mlp_chunk_size = 32 if smoke else 512
  config.model.positions = "rotary"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "tiny_shakespeare"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 1024
  config.gradient.method = "full"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 100
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 2 if smoke else 4
  config.train.num_steps = 4 if smoke else 1_000
  config.train.log_every = 2 if smoke else 50
  config.train.eval_every = 2 if smoke else 250
  config.train.checkpoint_every = 2 if smoke else 250
  return config
