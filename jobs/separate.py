"""Separate audio files with a trained checkpoint. `python jobs/separate.py --help` lists its settings; it is the same as `cyclesep separate`."""

from cyclesep.commandline import run_job

if __name__ == "__main__":
    run_job("separate")
