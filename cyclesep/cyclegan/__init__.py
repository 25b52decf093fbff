"""The cycle-GAN: one optimisation step of any recipe, its losses' weights, and what keeps it stable."""
