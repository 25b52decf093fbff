"""Scores in museval's format: its JSON, its `TrackStore`, and a drop-in replacement for `museval.eval_mus_track`.

museval is imported on first use, because its import takes a second and requires ffmpeg on the PATH.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, VOCALS
from cyclesep.errors import ScoringError
from cyclesep.metrics.bss_eval import Mode
from cyclesep.metrics.track_score import TrackScore, score_track
from cyclesep.storage.atomic_io import as_name, write_text

if TYPE_CHECKING:
    from museval import TrackStore


def to_track_store(score: TrackScore) -> "TrackStore":
    """Return museval's `TrackStore`: each target once, vocals as scored with the accompaniment if there is one."""
    from museval import TrackStore

    store = TrackStore(track_name=score.track_id, win=score.frame_seconds, hop=score.hop_seconds)
    for name in score.names:
        values = score.of(name).frame_metrics()
        store.add_target(target_name=name, values={metric: frames.tolist() for metric, frames in values.items()})
    return store


def to_museval_json(score: TrackScore) -> str:
    """Return the text of museval's JSON file: five decimals, bare NaN for NaN and infinite values."""
    text: str = to_track_store(score).json
    return text


def write_museval_json(score: TrackScore, folder: Path) -> Path:
    """Write `folder/<split>/<track>.json` atomically, as museval's EvalStore expects (slashes become _)."""
    path = folder / as_name(score.split) / f"{as_name(score.track_id)}.json"
    write_text(path, to_museval_json(score))
    return path


def eval_mus_track(
    track: Any,
    user_estimates: Mapping[str, NDArray[Any]],
    output_dir: str | Path | None = None,
    mode: Mode = "v4",
    win: float = 1.0,
    hop: float = 1.0,
) -> "TrackStore":
    """Score estimates `(time, channels)` of a musdb track: a drop-in replacement for `museval.eval_mus_track`.

    A musdb track has a `name`, a `subset`, a `rate` in Hz, and `targets` by name, each with `audio` (time, channels) or
    with the `sources` (`name`, `gain`, `audio`) that are summed. As in museval, every target of the track can be
    estimated, including sums of stems such as musdb's `linear_mixture`; estimates with other names are ignored. Unlike
    museval, references and estimates are rounded to 16 bits, each stem is decoded once, silence gives NaN frames, a
    single target is scored, and the JSON is written atomically.

    Raises ScoringError as `score_track` does, and if no target was estimated; museval only warns then and returns an
    empty store, which would count as a finished track.
    """
    rate = int(track.rate)
    estimates = {name: _waveform(audio, rate) for name, audio in user_estimates.items() if name in track.targets}
    if not estimates:
        raise ScoringError(
            f"{track.name}: none of the estimates {sorted(user_estimates)} is one of the targets "
            f"{sorted(track.targets)}; rename the estimates"
        )
    # The accompaniment alone is scored against the vocals, which were not estimated.
    wanted = estimates.keys() | ({VOCALS} if estimates.keys() == {ACCOMPANIMENT} else set())
    targets = {name: target for name, target in track.targets.items() if name in wanted}
    score = score_track(
        {name: _waveform(audio, rate) for name, audio in _audio_of(targets).items()},
        estimates,
        frame_seconds=win,
        hop_seconds=hop,
        mode=mode,
        derive_accompaniment=False,
        track_id=track.name,
        split=track.subset,
    )
    if output_dir is not None:
        write_museval_json(score, Path(output_dir))
    return to_track_store(score)


def _audio_of(targets: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the audio of targets, decoding each source that musdb's targets are sums of only once."""
    decoded: dict[str, NDArray[Any]] = {}

    def audio(target: Any) -> NDArray[Any]:
        parts = getattr(target, "sources", None)
        if parts is None:
            return np.asarray(target.audio)
        decoded.update({part.name: part.audio for part in parts if part.name not in decoded})
        return np.asarray(sum(part.gain * decoded[part.name] for part in parts))

    return {name: audio(target) for name, target in targets.items()}


def _waveform(audio: NDArray[Any], rate: int) -> Waveform:
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32).T)
    return Waveform(samples=np.ascontiguousarray(samples), sample_rate=rate)
