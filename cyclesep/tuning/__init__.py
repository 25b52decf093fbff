"""Hyperparameter search: trials of the trainer under Ray Tune, and finals of the best with several seeds."""
