"""Where the frames of BSS Eval lie, by museval's rule."""

import math
import numbers

from cyclesep.errors import ScoringError

Span = tuple[int, int]


def frame_spans(num_samples: int, win: float, hop: float) -> list[Span]:
    """`(start, stop)` of each frame in samples: museval 0.4.1's `Framing`, fractions and infinities included.

    A window no shorter than the track gives one frame, the whole track; a last frame that would be cut short is
    left out. Raises ScoringError for a window or hop that is not positive, or an infinite hop of a finite window.
    """
    if not (isinstance(win, numbers.Real) and isinstance(hop, numbers.Real) and win > 0 and hop > 0):
        raise ScoringError(f"win={win!r} and hop={hop!r}: both must be positive numbers of samples")
    if win >= num_samples:
        return [(0, num_samples)]
    if math.isinf(hop):
        raise ScoringError(f"hop={hop} with win={win}: a finite window needs a finite hop, in samples")
    count = math.floor((num_samples - win + hop) / hop)
    return [(math.floor(k * hop), math.floor(min(k * hop + win, num_samples))) for k in range(count)]


def tiling(frames: list[Span], num_samples: int, tile_samples: int) -> list[Span]:
    """Spans that cover every sample once: the frames themselves and the rest after them where they adjoin, as in
    the usual case of hop equal to window; else tiles of `tile_samples`."""
    stops = [0] + [stop for _, stop in frames]
    if all(start == stop for (start, _), stop in zip(frames, stops, strict=False)):
        rest = [(stops[-1], num_samples)] if stops[-1] < num_samples else []
        return frames + rest
    return [(start, min(start + tile_samples, num_samples)) for start in range(0, num_samples, tile_samples)]
