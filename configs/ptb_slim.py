"""PTB byte by byte, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4,
with the model and length of configuration II. The text is Mikolov's three
files. For the other curves of the figure pass --config.gradient.method=full or
full_then_slim, or --config.gradient.chunk_size=256.

Command:   python -m slim.train --config=configs/ptb_slim.py \
             --workdir=runs/ptb_slim
Hardware:  2 cores of an AMD EPYC.
Result:    3.31 bits per byte of validation after 3,000 steps, as with full
           gradients (2026-11-29, jax 0.10.2, in learning_curves_ptb.json
           of experiments/results).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.ptb(config)
  presets.performer(config)
  config.gradient.chunk_size = 512
  config.optimizer.learning_rate = 1e-4
  return presets.variant(config, variant)
