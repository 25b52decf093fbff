"""cyclesep: train, tune, run and score cycle-consistent adversarial music source separators on Ray."""

__version__ = "0.1.0"
