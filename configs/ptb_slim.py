"""PTB byte by byte as in the paper, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4;
the model and the length are those of its configuration II. The text is that of
Mikolov's three files. The paper's other curves: --config.gradient.method=full
or full_then_slim, and --config.gradient.chunk_size=256.

Command:   python -m slim.train --config=configs/ptb_slim.py \
             --workdir=runs/ptb_slim
Hardware:  2 cores of an AMD EPYC.
Time:      0.5 s a step with full: 4 hours in all. 200 steps were run.
Expected:  the same curve for every method and C: those of full, slim at 512 and
           256 and full_then_slim differ by 2e-7 in 200 steps, which end at
           eval/bpc 3.49 (2026-11-25, jax 0.10.2).
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
  config.model.width = 64 if smoke else 512
  config.model.num_layers = 1 if smoke else 3
  config.model.num_heads = 2 if smoke else 8
  config.model.norm = "output"
  config.data.name = "ptb"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 1024
  config.data.order = "consecutive"
  config.gradient.method = "slim"
  config.gradient.chunk_size = 16 if smoke else 512
  config.optimizer.learning_rate = 1e-4
  config.train.batch_size = 2 if smoke else 1
  config.train.num_steps = 4 if smoke else 30_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
