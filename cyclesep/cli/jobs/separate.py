"""`cyclesep separate`: separate audio files."""

import sys

from cyclesep.cli.job import Flag, Job
from cyclesep.inference.config import SeparateConfig


def run(config: SeparateConfig) -> int:
    """Separate audio files in this process; the exit status is 1 if a file failed."""
    from cyclesep.cluster.job_folder import check_output_outlives_job
    from cyclesep.inference.separate import separate_files

    check_output_outlives_job("output", config.output)
    result = separate_files(config)
    if config.json:
        print(result.to_json())
    else:
        for file in result.separated:
            scaled = f" (scaled by {file.gain:.3f} to avoid clipping)" if file.gain < 1 else ""
            print(f"{file.source}: {', '.join(str(path) for path in file.stems.values())}{scaled}")
    for failure in result.failed:
        print(f"cyclesep separate: error: {failure.reason}", file=sys.stderr)
    if result.failed and result.separated:
        num_files = len(result.failed) + len(result.separated)
        print(
            f"cyclesep separate: {len(result.failed)} of {num_files} files failed; the stems of the others are written",
            file=sys.stderr,
        )
    return 1 if result.failed else 0


JOB = Job(
    name="separate",
    description="Separate audio files with a trained checkpoint.",
    config=SeparateConfig,
    run=run,
    examples=(
        "song.mp3 checkpoint=runs/quickstart",
        "folder-of-songs 'more/*.m4a' checkpoint=quickstart output=stems format=flac",
        "song.mp3 checkpoint=quickstart --two-stems vocals filename_template='{track} ({stem}).{ext}' format=mp3",
    ),
    positional="inputs",
    flags=(
        Flag(
            name="--two-stems",
            description="write this target, and everything else as one file",
            overrides=("stems=[{}]", "residual=true"),
            value="TARGET",
        ),
        Flag(
            name="--device",
            description="cpu, cuda, or auto (a GPU if there is one)",
            overrides=("separation.device={}",),
            value="DEVICE",
        ),
        Flag(
            name="--json",
            description="print one JSON document on stdout, everything else on stderr",
            overrides=("json=true",),
        ),
    ),
)
