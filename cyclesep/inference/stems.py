"""Separate audio into named stems: the chosen targets, and the input minus the targets."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT
from cyclesep.errors import ConfigError
from cyclesep.inference.chunked_inference import SeparatorLike, separate_blocks
from cyclesep.inference.config import SeparationConfig


def separate_waveform(
    separator: SeparatorLike, waveform: Waveform, config: SeparationConfig | None = None, *, stems: Sequence[str] = ()
) -> dict[str, Waveform]:
    """Return the chosen targets (default: all) and the residual; all have the waveform's rate, channels and length."""
    targets = select_targets(separator, stems)
    chunks = list(
        separate_stream(
            separator,
            [waveform.samples],
            channels=waveform.channels,
            sample_rate=waveform.sample_rate,
            config=config or SeparationConfig(),
            targets=targets,
        )
    )
    return {
        name: Waveform(
            samples=np.concatenate([chunk[name] for chunk in chunks], axis=1), sample_rate=waveform.sample_rate
        )
        for name in (*targets, residual_name(targets))
    }


def residual_name(targets: Sequence[str]) -> str:
    """Return the name of the mixture minus `targets`: "accompaniment" for one target, "residual" for several."""
    return ACCOMPANIMENT if len(targets) == 1 and targets[0] != ACCOMPANIMENT else "residual"


def select_targets(separator: SeparatorLike, stems: Sequence[str]) -> list[str]:
    """Return `stems`, or all targets of the separator if empty; raise ConfigError for an unknown target."""
    unknown = [stem for stem in stems if stem not in separator.targets]
    if unknown:
        raise ConfigError(
            f"stems: unknown target {unknown[0]!r}; the separator extracts {', '.join(separator.targets)}"
        )
    return list(stems or separator.targets)


def separate_stream(
    separator: SeparatorLike,
    blocks: Iterable[Samples],
    *,
    channels: int,
    sample_rate: int,
    config: SeparationConfig,
    targets: Sequence[str],
) -> Iterator[dict[str, Samples]]:
    """Yield chunks `(channels, time)` of `targets` and of the residual, in order."""
    rows = [separator.targets.index(target) for target in targets]
    for mixture, estimates in separate_blocks(
        separator, blocks, channels=channels, sample_rate=sample_rate, config=config
    ):
        selected = estimates[rows]
        yield dict(zip(targets, selected, strict=True)) | {residual_name(targets): mixture - selected.sum(axis=0)}
