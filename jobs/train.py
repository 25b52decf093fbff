"""Train a separator on shards, with Ray Train, on one machine or many. `python jobs/train.py --help` lists its settings; it is the same as `cyclesep train`."""

from cyclesep.commandline import run_job

if __name__ == "__main__":
    run_job("train")
