"""The scores of one separated track: which targets are scored together, BSS Eval per frame, SI-SDR and uSDR."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cyclesep.audio.audio_io import PCM16_SCALE, Waveform
from cyclesep.audio.stem_names import ACCOMPANIMENT, MIXTURE, VOCALS
from cyclesep.errors import ScoringError
from cyclesep.metrics.bss_eval import Mode, Scores, score_sources
from cyclesep.metrics.sources import Array, Pairing, Sources, require_finite

FRAME_METRICS = ("SDR", "ISR", "SIR", "SAR")
TRACK_METRICS = ("SI-SDR", "uSDR")


@dataclass(frozen=True, kw_only=True)
class TargetScore:
    """The scores of one target of one track; frames where any signal of `scoring_group` is silent are NaN."""

    target: str
    scoring_group: tuple[str, ...]
    """All targets that were scored together, including this one."""
    sdr: Array
    """(frames,), dB, as are the next three."""
    isr: Array
    sir: Array
    sar: Array
    si_sdr: float
    """Whole track, dB."""
    usdr: float
    """Whole track, dB."""
    conditioning: str
    """How the least squares were solved: exact, deduplicated, sensitive, regularized, lu, least_squares or
    underdetermined."""

    @property
    def nan_frames(self) -> int:
        return int(np.isnan(self.sdr).sum())

    def frame_metrics(self) -> dict[str, Array]:
        """Return the values per frame by museval's metric names."""
        return dict(zip(FRAME_METRICS, (self.sdr, self.isr, self.sir, self.sar), strict=True))

    def track_metrics(self) -> dict[str, float]:
        """Return the values of the whole track by metric name."""
        return dict(zip(TRACK_METRICS, (self.si_sdr, self.usdr), strict=True))


@dataclass(frozen=True, kw_only=True)
class TrackScore:
    """All scores of one track. Vocals can occur twice: scored with the other stems, and with the accompaniment."""

    track_id: str
    split: str
    sample_rate: int
    frame_seconds: float
    hop_seconds: float
    targets: tuple[TargetScore, ...]

    def of(self, target: str) -> TargetScore:
        """Return the score that museval's JSON contains for `target`: scored with the accompaniment if there is one.

        Raises ScoringError if the target was not scored.
        """
        found = [score for score in self.targets if score.target == target]
        if not found:
            raise ScoringError(f"{self.track_id}: {target!r} was not scored, only {sorted(self.names)}")
        return found[-1]

    @property
    def names(self) -> tuple[str, ...]:
        """The targets without repetition, in the order of the references, accompaniment last."""
        return tuple(dict.fromkeys(score.target for score in self.targets))


def score_track(
    references: Mapping[str, Waveform],
    estimates: Mapping[str, Waveform],
    *,
    frame_seconds: float = 1.0,
    hop_seconds: float | None = None,
    mode: Mode = "v4",
    derive_accompaniment: bool = True,
    track_id: str = "",
    split: str = "test",
) -> TrackScore:
    """Score the estimates of one track as `museval.eval_mus_track` does, with any stem names.

    - Two or more estimated targets are scored together, in the order of `references`.
    - "vocals" and "accompaniment" are scored as a second pair. The accompaniment's reference is the sum of all other
      references; its estimate is the given one, or, with `derive_accompaniment`, the sum of the other estimates if
      there is one for every reference.
    - A single target is scored with the given accompaniment (reference: the sum of all others), or by itself.
    - The accompaniment alone is scored as in the second pair, where its values do not depend on the vocals' estimate.

    References and estimates are rounded to 16 bits first: smaller values contain no music but make the correlations
    ill-conditioned and SIR and SAR meaningless. Values above full scale are not clipped. A reference named "mixture" is
    ignored. `hop_seconds` defaults to `frame_seconds`. Short references are zero-padded to the longest one, estimates
    cut or padded to the same length. Silence gives NaN frames, not an error.

    Raises ScoringError, naming track and stem, if there is no estimate of any reference, sample rates or channels
    differ, there are no samples, or samples are NaN or infinite; and if a window or hop is shorter than a sample or
    infinite.
    """
    references = {name: stem for name, stem in references.items() if name != MIXTURE}
    scenarios = _scenarios(tuple(references), tuple(estimates), derive_accompaniment, track_id)
    wanted = [name for name in estimates if any(name in scenario.uses for scenario in scenarios)]
    sample_rate = _common_rate(references, {name: estimates[name] for name in wanted}, track_id)
    named = {f"{track_id}: reference {name!r}": wave.samples for name, wave in references.items()}
    named |= {f"{track_id}: estimate {name!r}": estimates[name].samples for name in wanted}
    require_finite(tuple(named.values()), tuple(named))
    sources = Sources(signals=tuple(named.values()), num_references=len(references), steps=PCM16_SCALE)
    pairings = tuple(scenario.pairing(list(references), wanted) for scenario in scenarios)
    hop_seconds = frame_seconds if hop_seconds is None else hop_seconds
    scores = score_sources(
        sources,
        pairings,
        win=_whole_samples("frame_seconds", frame_seconds, sample_rate),
        hop=_whole_samples("hop_seconds", hop_seconds, sample_rate),
        mode=mode,
    )
    targets = [
        score for scenario, frames in zip(scenarios, scores, strict=True) for score in _target_scores(scenario, frames)
    ]
    return TrackScore(
        track_id=track_id,
        split=split,
        sample_rate=sample_rate,
        frame_seconds=frame_seconds,
        hop_seconds=hop_seconds,
        targets=tuple(targets),
    )


@dataclass(frozen=True, kw_only=True)
class _Scenario:
    """Targets that are scored together: for each, the references and the estimates that are summed."""

    references: dict[str, tuple[str, ...]]
    estimates: dict[str, tuple[str, ...]]
    scored: frozenset[str]
    """The targets that get a score; their scores do not depend on the estimates of the others."""

    @property
    def uses(self) -> set[str]:
        """The names of the estimates that are used."""
        return {name for group in self.estimates.values() for name in group}

    def pairing(self, references: list[str], estimates: list[str]) -> Pairing:
        return Pairing(
            references=tuple(tuple(references.index(name) for name in group) for group in self.references.values()),
            estimates=tuple(tuple(estimates.index(name) for name in group) for group in self.estimates.values()),
        )


def _scenarios(
    references: tuple[str, ...], estimates: tuple[str, ...], derive_accompaniment: bool, track_id: str
) -> list[_Scenario]:
    """Return what museval.eval_mus_track scores together; a single target too, which museval does not score.

    If vocals were not estimated, the accompaniment's estimate is used in their place and they get no score.
    """
    given = ACCOMPANIMENT in estimates
    stems = [name for name in references if name in estimates and name != ACCOMPANIMENT]
    if given and not stems and VOCALS in references:
        pair = _scenario([VOCALS, ACCOMPANIMENT], references, VOCALS, {VOCALS: (ACCOMPANIMENT,)})
        return [replace(pair, scored=frozenset({ACCOMPANIMENT}))]
    if not stems and not (given and ACCOMPANIMENT in references):
        raise ScoringError(
            f"{track_id}: none of the estimates {sorted(estimates)} is one of the references {sorted(references)}; "
            "rename the estimates"
        )
    complete = set(stems) == set(references) - {ACCOMPANIMENT} and len(stems) > 1
    paired_with = VOCALS if VOCALS in stems else stems[0] if len(stems) == 1 else None
    has_pair = paired_with is not None and (given or (derive_accompaniment and complete and paired_with == VOCALS))
    together = stems if has_pair or not given else [*stems, ACCOMPANIMENT]
    scenarios = []
    if len(together) > 1 or not has_pair:
        scenarios.append(_scenario(together, references, paired_with or VOCALS, {}))
    if has_pair and paired_with is not None:
        rest = {} if given else {ACCOMPANIMENT: tuple(name for name in stems if name != paired_with)}
        scenarios.append(_scenario([paired_with, ACCOMPANIMENT], references, paired_with, rest))
    return scenarios


def _scenario(
    targets: list[str], references: tuple[str, ...], lead: str, sums: Mapping[str, tuple[str, ...]]
) -> _Scenario:
    """Make a scenario; `lead` is excluded from the accompaniment, `sums` maps targets to the estimates to sum."""
    others = tuple(name for name in references if name not in (lead, ACCOMPANIMENT))
    parts_of: dict[str, tuple[str, ...]] = {name: (name,) for name in references}
    if ACCOMPANIMENT in targets and ACCOMPANIMENT not in references:
        if not others:
            raise ScoringError(
                f"accompaniment was estimated, but {lead!r} is the only reference; specify the other references"
            )
        parts_of[ACCOMPANIMENT] = others
    return _Scenario(
        references={name: parts_of[name] for name in targets},
        estimates={name: sums.get(name, (name,)) for name in targets},
        scored=frozenset(targets),
    )


def _target_scores(scenario: _Scenario, scores: Scores) -> Iterator[TargetScore]:
    for j, target in enumerate(scenario.references):
        if target not in scenario.scored:
            continue
        yield TargetScore(
            target=target,
            scoring_group=tuple(scenario.references),
            sdr=scores.sdr[j],
            isr=scores.isr[j],
            sir=scores.sir[j],
            sar=scores.sar[j],
            si_sdr=scores.whole_track[j].si_sdr(),
            usdr=scores.whole_track[j].usdr(),
            conditioning=scores.conditioning.name.lower(),
        )


def _whole_samples(name: str, seconds: float, sample_rate: int) -> int:
    """Convert seconds to samples, truncating as museval does."""
    samples = seconds * sample_rate
    if not 1 <= samples < math.inf:
        raise ScoringError(
            f"{name}={seconds}: must be finite and at least one sample at {sample_rate} Hz; a window longer than the "
            "track makes the track one frame"
        )
    return int(samples)


def _common_rate(references: Mapping[str, Waveform], estimates: Mapping[str, Waveform], track_id: str) -> int:
    """Return the common sample rate; raises ScoringError if rates or channels differ or there are no samples."""
    first_name, first = next(iter(references.items()))
    for kind, stems in (("reference", references), ("estimate", estimates)):
        for name, wave in stems.items():
            if (wave.sample_rate, wave.channels) != (first.sample_rate, first.channels):
                raise ScoringError(
                    f"{track_id}: {kind} {name!r} is {wave.sample_rate} Hz with {wave.channels} channels, reference "
                    f"{first_name!r} {first.sample_rate} Hz with {first.channels}; convert one to the other's format"
                )
    if max(wave.num_samples for wave in references.values()) == 0 or first.channels == 0:
        raise ScoringError(f"{track_id}: the references contain no samples; exclude the track")
    return first.sample_rate
