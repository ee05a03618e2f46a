"""The paper's Copying task, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4:
full gradients, fine-tuning and training from scratch with SLiM learn the same.
The other curves: --config.gradient.method=full or full_then_slim, and
--config.gradient.chunk_size=64.

Command:   python -m slim.train --config=configs/copying_slim.py \
             --workdir=runs/copying_slim
Hardware:  not run yet.
Time:      not run yet.
Expected:  eval/accuracy 1; not run yet.
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
  config.model.width = 256
  config.model.num_layers = 1
  config.model.num_heads = 4
  config.model.norm = "pre"
  config.data.name = "copying"
  config.data.sequence_length = 64 if smoke else 512
  config.data.vocab_size = 256
  config.gradient.method = "slim"
  config.gradient.chunk_size = 16 if smoke else 128
  config.optimizer.learning_rate = 1e-2
  config.optimizer.schedule = "step"
  config.optimizer.decay_at = 10_000
  config.optimizer.decay_factor = 0.1
  config.train.batch_size = 1
  config.train.num_steps = 4 if smoke else 15_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
