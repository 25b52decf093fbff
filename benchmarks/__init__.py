"""Benchmarks: one module each, with its settings and a function `run` that gives tables; `cyclesep benchmark NAME`."""
