"""The same as `cyclesep evaluate`; `python jobs/evaluate.py --help` lists its settings."""

from cyclesep.cli.main import run_job

if __name__ == "__main__":
    run_job("evaluate")
