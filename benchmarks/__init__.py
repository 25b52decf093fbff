"""Benchmarks, run by `python jobs/benchmark.py NAME`: one module each, whose `run` returns tables."""
