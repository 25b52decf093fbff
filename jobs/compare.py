"""The same as `cyclesep compare`; `python jobs/compare.py --help` lists its settings."""

from cyclesep.cli.main import run_job

if __name__ == "__main__":
    run_job("compare")
