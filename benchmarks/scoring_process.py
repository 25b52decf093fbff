"""Score one track by one method in a separate process, to measure its memory and threads alone.

`python -m benchmarks.scoring_process METHOD FOLDER OUTPUT PAIR ROUNDS`, with the number of BLAS and OpenMP
threads in the environment, scores the audio in FOLDER and writes a JSON object to OUTPUT: CPU and wall seconds (of the
fastest of ROUNDS), peak memory in MB above that with the audio loaded, and the scores in dB.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scoring_audio import ScoredAudio

Scores = list[list[list[float]]]
"""Metrics (SDR, ISR, SIR, SAR), targets, frames."""


def main(method: str, folder: Path, output: Path, pair: bool, rounds: int) -> None:
    """Score with `method`: museval or cyclesep."""
    audio = ScoredAudio.load(folder)
    score = {"museval": _museval, "cyclesep": _cyclesep}[method](audio, pair)
    del audio  # its memory-mapped pages may be dropped
    before = _peak_mb(reset=True)
    times = []
    for _ in range(rounds):
        cpu, wall = time.process_time(), time.perf_counter()
        scores = score()
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    result = {
        "cpu_seconds": min(cpu for cpu, _ in times),
        "wall_seconds": min(wall for _, wall in times),
        "peak_mb": _peak_mb() - before,
        "scores": scores,
    }
    output.write_text(json.dumps(result))


def _museval(audio: ScoredAudio, pair: bool) -> Callable[[], Scores]:
    """Score as `museval.eval_mus_track` does: the stems, then vocals and accompaniment."""
    import museval  # a second to import

    references, estimates = audio.for_museval()
    rate = audio.sample_rate

    def score() -> Scores:
        found = [np.stack(museval.evaluate(references, estimates, win=rate, hop=rate))]
        if pair:
            both = [np.stack([signals[0], signals[1:].sum(axis=0)]) for signals in (references, estimates)]
            found.append(np.stack(museval.evaluate(*both, win=rate, hop=rate)))
        scores: Scores = np.concatenate(found, axis=1).tolist()
        return scores

    return score


def _cyclesep(audio: ScoredAudio, pair: bool) -> Callable[[], Scores]:
    from cyclesep.metrics import score_track

    references, estimates = audio.waveforms()

    def score() -> Scores:
        track = score_track(references, estimates, derive_accompaniment=pair)
        by_metric: Any = zip(*(target.frame_metrics().values() for target in track.targets), strict=True)
        return [[frames.tolist() for frames in targets] for targets in by_metric]

    return score


def _peak_mb(*, reset: bool = False) -> float:
    """Return the peak resident memory in MB, since the last reset if the system supports resetting it."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        # If resetting is not permitted, the peak includes loading the audio.
        with contextlib.suppress(OSError):
            clear.write_text("5")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "pair", int(sys.argv[5]))
