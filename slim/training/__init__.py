"""Training: gradients, losses, the optimizer, and evaluation."""
