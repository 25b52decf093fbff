"""The frames of BSS Eval, by museval's rule."""

import math
import numbers

from cyclesep.errors import ScoringError

Span = tuple[int, int]


def frame_spans(num_samples: int, win: float, hop: float) -> list[Span]:
    """Return `(start, stop)` of each frame in samples, as museval 0.4.1's `Framing` does.

    A window that is at least as long as the track yields one frame, the whole track. An incomplete last frame is left
    out. Raises ScoringError for a window or hop that is not positive, or an infinite hop of a finite window.
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
    """Return spans that cover every sample exactly once.

    If the frames adjoin, as with hop equal to window, these are the frames and the remaining samples after them;
    otherwise tiles of `tile_samples`.
    """
    stops = [0] + [stop for _, stop in frames]
    if all(start == stop for (start, _), stop in zip(frames, stops, strict=False)):
        rest = [(stops[-1], num_samples)] if stops[-1] < num_samples else []
        return frames + rest
    return [(start, min(start + tile_samples, num_samples)) for start in range(0, num_samples, tile_samples)]
