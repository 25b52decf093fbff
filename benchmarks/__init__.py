"""Benchmarks, run by `python jobs/benchmark.py NAME`: one module each, with a config and a `run` that returns tables."""
