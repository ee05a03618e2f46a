"""Enwik8 byte by byte, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4,
with the model and length of configuration III. For the other curves of the
figure pass --config.gradient.method=full or full_then_slim, or
--config.gradient.chunk_size=1366.

Command:   python -m slim.train --config=configs/enwik8_slim.py \
             --workdir=runs/enwik8_slim
Hardware:  2 cores of an AMD EPYC.
Result:    4.11 bits per byte of validation after 300 steps on the first 4 MB
           of enwik8, as with full gradients (2026-11-29, jax 0.10.2, in
           learning_curves_enwik8.json of experiments/results).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.enwik8(config)
  presets.performer(config)
  config.gradient.chunk_size = 2048
  config.optimizer.learning_rate = 2e-4
  return presets.variant(config, variant)
