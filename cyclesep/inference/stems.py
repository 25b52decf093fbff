"""A stream of audio to named stems: the chosen targets and what they leave."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from cyclesep.audio.audio_io import Samples, Waveform
from cyclesep.errors import ConfigError
from cyclesep.inference.chunked_inference import SeparationConfig, Separator, separate_blocks

ACCOMPANIMENT = "accompaniment"


def separate_waveform(
    separator: Separator, waveform: Waveform, config: SeparationConfig | None = None, *, stems: Sequence[str] = ()
) -> dict[str, Waveform]:
    """The chosen targets (default: all) and the residual of a waveform, each of its rate, channels, length and gain."""
    chosen = chosen_targets(separator, stems)
    pieces = named_pieces(
        separator,
        [waveform.samples],
        channels=waveform.channels,
        sample_rate=waveform.sample_rate,
        config=config or SeparationConfig(),
        chosen=chosen,
    )
    parts = list(pieces)
    return {
        name: Waveform(samples=np.concatenate([part[name] for part in parts], axis=1), sample_rate=waveform.sample_rate)
        for name in (*chosen, residual_name(chosen))
    }


def residual_name(targets: Sequence[str]) -> str:
    """What is left of a mixture without `targets`: "accompaniment" of one target, "residual" of several."""
    return ACCOMPANIMENT if len(targets) == 1 and targets[0] != ACCOMPANIMENT else "residual"


def chosen_targets(separator: Separator, stems: Sequence[str]) -> list[str]:
    """`stems`, or all that the separator has; raises ConfigError for one that it has not."""
    unknown = [stem for stem in stems if stem not in separator.targets]
    if unknown:
        raise ConfigError(f"stems: the separator has no {unknown[0]!r}; it gives {', '.join(separator.targets)}")
    return list(stems or separator.targets)


def named_pieces(
    separator: Separator,
    blocks: Iterable[Samples],
    *,
    channels: int,
    sample_rate: int,
    config: SeparationConfig,
    chosen: Sequence[str],
) -> Iterator[dict[str, Samples]]:
    """Piece after piece of the chosen targets and of what they leave, each `(channels, time)`."""
    rows = [separator.targets.index(target) for target in chosen]
    for mixture, estimates in separate_blocks(
        separator, blocks, channels=channels, sample_rate=sample_rate, config=config
    ):
        kept = estimates[rows]
        yield dict(zip(chosen, kept, strict=True)) | {residual_name(chosen): mixture - kept.sum(axis=0)}
