"""Tiny Shakespeare byte by byte, with a Reformer.

A Reformer of the same size as `shakespeare_slim.py`, on the same data: local
and LSH attention in turn, in reversible layers.

Command:   python -m slim.train --config=configs/shakespeare_reformer.py \
             --workdir=runs/shakespeare_reformer
Hardware:  2 cores of an AMD EPYC, shared with other work.
Result:    2.46 bits per byte of validation after 1,000 steps (2026-11-29,
           jax 0.10.2, in model_curves.json of experiments/results).
"""

from slim.config import base, presets


def get_config(variant=""):
  config = base()
  presets.shakespeare(config)
  presets.reformer(config)
  config.optimizer.update(learning_rate=1e-3, warmup_steps=100)
  return presets.variant(config, variant)
