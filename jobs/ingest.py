"""The same as `cyclesep ingest`; `python jobs/ingest.py --help` lists its settings."""

from cyclesep.cli.main import run_job

if __name__ == "__main__":
    run_job("ingest")
