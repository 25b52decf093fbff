"""One way of scoring one track, in a process of its own, so that memory and threads are its own too.

`python -m benchmarks.scoring_process WAY FOLDER OUTPUT PAIR ROUNDS`, with the number of BLAS and OpenMP
threads in the environment, scores the audio in FOLDER and writes a JSON object to OUTPUT: seconds of processor time and
of the clock (of the fastest of ROUNDS), peak memory in MB above that with the audio loaded, and the scores in dB.
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


def main(way: str, folder: Path, output: Path, pair: bool, rounds: int) -> None:
    """Score by `way`: museval, cyclesep, or a device of PyTorch."""
    audio = ScoredAudio.load(folder)
    score = _museval(audio, pair) if way == "museval" else _cyclesep(audio, pair, None if way == "cyclesep" else way)
    del audio  # its pages are mapped and may come and go
    before = _peak_mb(reset=True)
    times = []
    for _ in range(rounds):
        processor, clock = time.process_time(), time.perf_counter()
        scores = score()
        times.append((time.process_time() - processor, time.perf_counter() - clock))
    result = {
        "cpu_seconds": min(spent for spent, _ in times),
        "wall_seconds": min(passed for _, passed in times),
        "peak_mb": _peak_mb() - before,
        "scores": scores,
    }
    output.write_text(json.dumps(result))


def _museval(audio: ScoredAudio, pair: bool) -> Callable[[], Scores]:
    """As `museval.eval_mus_track` does: the stems, then vocals and accompaniment."""
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


def _cyclesep(audio: ScoredAudio, pair: bool, device: str | None) -> Callable[[], Scores]:
    from cyclesep.metrics import score_track

    references, estimates = audio.waveforms()

    def score() -> Scores:
        track = score_track(references, estimates, derive_accompaniment=pair, device=device)
        by_metric: Any = zip(*(target.frame_metrics().values() for target in track.targets), strict=True)
        return [[frames.tolist() for frames in targets] for targets in by_metric]

    if device not in (None, "cpu"):
        score()  # a device starts slowly once a process
    return score


def _peak_mb(*, reset: bool = False) -> float:
    """The most memory that this process has held, of late where the system forgets at request, else ever."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if reset:
        # Where it is forbidden the peak of loading the audio stands.
        with contextlib.suppress(OSError):
            clear.write_text("5")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "pair", int(sys.argv[5]))
