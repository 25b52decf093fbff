"""`cyclesep ingest`: convert music to shards."""

from cyclesep.cli.job import Job
from cyclesep.data.config import IngestConfig


def run(config: IngestConfig) -> int:
    """Convert music to shards; the exit status is 1 if a track failed."""
    from cyclesep.cluster.connect import connect
    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.data.corpora.corpus import find_tracks
    from cyclesep.data.ingest import ingest
    from cyclesep.storage.path import StoragePath

    check_output_outlives_job("output", config.output)
    # Report wrong paths before Ray starts, which takes seconds.
    tracks = find_tracks(config.corpus)
    StoragePath.of(config.output).exists()
    with connect():
        result = ingest(config, tracks)
    print(result.summary())
    return 1 if result.failed else 0


JOB = Job(
    name="ingest",
    description="Convert music to shards, from which training streams.",
    config=IngestConfig,
    run=run,
    examples=(
        "corpus.kind=musdb18 corpus.path=MUSDB18 output=data/musdb18",
        "corpus.kind=stems corpus.path=my-songs output=data/mine sample_rate=16000 channels=1",
        "jobs/configs/quickstart/ingest.yaml output=data/songs corpus.synthetic.num_train=80",
    ),
)
