"""Separate and score a whole test split in parallel, beside the mixture, an oracle and a heuristic. `python jobs/evaluate.py --help` lists its settings; it is the same as `cyclesep evaluate`."""

from cyclesep.commandline import run_job

if __name__ == "__main__":
    run_job("evaluate")
