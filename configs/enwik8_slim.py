"""Enwik8 byte by byte as in the paper, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4;
the model and the length are those of its configuration III. The paper's other
curves: --config.gradient.method=full or full_then_slim, and
--config.gradient.chunk_size=1366. While training, the first 100 sequences of
the validation split are evaluated; `slim.evaluate` does all of it.

Command:   python -m slim.train --config=configs/enwik8_slim.py \
             --workdir=runs/enwik8_slim
Hardware:  2 cores of an AMD EPYC.
Time:      9 s a step with full: 10 days in all. 200 steps were run, on a
           prefix of 4.15 MB.
Expected:  the same curve for every method and C: those of full and slim differ
           by 3e-7 in these steps, which end at eval/bpc 3.86 of the prefix's
           validation split (2026-11-25, jax 0.10.2).
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
  config.model.num_layers = 1 if smoke else 3
  config.model.num_heads = 2 if smoke else 16
  config.model.norm = "output"
  config.data.name = "enwik8"
  if smoke:
    config.data.path = __file__
  config.data.sequence_length = 64 if smoke else 4096
  config.data.order = "consecutive"
  config.gradient.method = "slim"
  config.gradient.chunk_size = 16 if smoke else 2048
  config.optimizer.learning_rate = 2e-4
  config.train.batch_size = 2 if smoke else 1
  config.train.num_steps = 4 if smoke else 100_000
  config.train.log_every = 2 if smoke else 100
  config.train.eval_every = 2 if smoke else 1_000
  config.train.eval_batches = 100
  config.train.checkpoint_every = 2 if smoke else 1_000
  return config
