"""Copying task of the SLiM paper, trained with SLiM from the first step.

Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, Figure 4:
training with full gradients, fine-tuning with SLiM and training with SLiM from
scratch give the same curve. For the other curves of the figure pass
--config.gradient.method=full or full_then_slim, or
--config.gradient.chunk_size=64.

Command:   python -m slim.train --config=configs/copying_slim.py \
             --workdir=runs/copying_slim
Hardware:  2 cores of an AMD EPYC.
Result:    eval/accuracy 0.993 after 15,000 steps; full 0.995 and, from another
           seed, 0.996 (2026-11-28, jax 0.10.2, in learning_curves_copying.json
           of experiments/results).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.copying(config)
  presets.performer(config)
  config.model.norm = "pre"
  config.gradient.chunk_size = 128
  config.optimizer.update(
    learning_rate=1e-2, schedule="step", decay_at=10_000, decay_factor=0.1
  )
  return presets.variant(config, variant)
