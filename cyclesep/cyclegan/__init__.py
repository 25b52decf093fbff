"""Training of cycle-GANs: recipes, losses, the training step and what stabilizes it."""
