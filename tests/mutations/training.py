"""Faults in losses, gradients, steps, optimizers and evaluation."""

from mutation import Mutation

GRADIENTS = (
  "training/test_gradients.py training/test_gradient_precision.py "
  "training/test_gradient_memory.py models"
)

MUTATIONS = [
  Mutation(
    "training/losses.py",
    "jax.lax.stop_gradient(weights)",
    "weights",
    "training/test_losses.py",
  ),
  Mutation(
    "training/losses.py",
    "hidden = jnp.where(counts[..., None], logits, 0)",
    "hidden = logits",
    "training/test_losses.py",
  ),
  Mutation(
    "training/losses.py",
    "index = jnp.where(targets < 0, logits.shape[-1], targets)",
    "index = targets",
    "training/test_losses.py",
  ),
  Mutation(
    "training/gradients.py",
    'compensated=policy == "rewind"',
    "compensated=False",
    GRADIENTS,
  ),
  Mutation(
    "training/gradients.py",
    'remat=method == "remat"',
    "remat=False",
    GRADIENTS,
  ),
  Mutation(
    "training/steps.py",
    "return jax.tree.map(jnp.add, total, value), None",
    "return value, None",
    "training/test_steps.py",
  ),
  Mutation(
    "training/steps.py",
    "mean = jax.tree.map(lambda x: x / weight, gradients)",
    "mean = gradients",
    "training/test_steps.py",
  ),
  Mutation(
    "training/optimizers.py",
    "(step + 1) / max(settings.warmup_steps, 1)",
    "step / max(settings.warmup_steps, 1)",
    "training/test_optimizers.py",
  ),
  Mutation(
    "training/optimizers.py",
    "transformations.insert(0, clip)",
    "transformations.append(clip)",
    "training/test_optimizers.py",
  ),
  Mutation(
    "training/build.py",
    "methods[0] if step < config.train.num_steps // 2",
    "methods[0] if step <= config.train.num_steps // 2",
    "training/test_build.py train",
  ),
  Mutation(
    "training/evaluation.py",
    "if not (carry_state and found):",
    "if carry_state or not found:",
    "training/test_evaluation.py test_evaluate.py",
  ),
]
