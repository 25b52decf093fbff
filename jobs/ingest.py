"""Turn music into shards that training streams from. `python jobs/ingest.py --help` lists its settings; it is the same as `cyclesep ingest`."""

from cyclesep.commandline import run_job

if __name__ == "__main__":
    run_job("ingest")
