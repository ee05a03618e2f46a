"""The paper's Copying task, by a Reformer of the Performer's size.

The data and the sizes are those of `copying_slim.py`. One layer of LSH
attention, whose queries are its keys: learned positions let a token and the one
that it repeats fall into one bucket.

Command:   python -m slim.train --config=configs/copying_reformer.py \
             --workdir=runs/copying_reformer
Hardware:  not run yet.
Time:      not run yet.
Expected:  not run yet.
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
  config.seed = 42
  config.model.width = 64 if smoke else 256
  config.model.num_layers = 1
  config.model.num_heads = 2 if smoke else 4
  config.model.attention = "lsh"
  config.model.bucket_size = 16 if smoke else 64
  config.model.num_hashes = 2 if smoke else 4
  config.model.reversible = True
  config.model.mlp_chunk_size = 32 if smoke else 512
  config.model.positions = "axial"
  config.model.norm = "pre"
  config.model.final_norm = True
  config.model.output_projection = True
  config.data.name = "copying"
  config.data.sequence_length = 64 if smoke else 512
  config.data.vocab_size = 256
  config.gradient.method = "full"
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup_steps = 0 if smoke else 500
  config.optimizer.clip_norm = 1.0
  config.train.batch_size = 2 if smoke else 1
  config.train.num_steps = 4 if smoke else 15_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
