"""Configuration of the jobs `evaluate`, `compare` and `aggregate`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import AllowInfNan, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.inference.config import SeparationConfig

Oracle = Literal["IRM1", "IRM2", "IBM", "MWF"]
Metric = Literal["SDR", "ISR", "SIR", "SAR", "SI-SDR", "uSDR"]
Average = Literal["median", "mean"]

# Names in `excerpts` that select a track by its SDR, as a quantile.
EXCERPT_QUANTILES = {"best": 1.0, "median": 0.5, "worst": 0.0}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a separator or a folder of estimates on a split, together with baselines and oracles."""

    checkpoint: str | None = None
    """Checkpoint or run folder of the separator to score. Default: no separator."""

    estimates: str | None = None
    """Folder of estimates to score, in museval's layout: SPLIT/TRACK/TARGET.wav (or flac)."""

    name: str = "separator"
    """Name of the separator in the tables; estimates are named after their folder."""

    shards: str | None = None
    """Folder or s3://bucket/prefix of the shards with the references, scored at their sample rate. Specify this or
    corpus."""

    corpus: CorpusConfig | None = None
    """Corpus with the references, scored at its original sample rate; set as for ingest (corpus.kind=...). Specify this
    or shards."""

    split: Literal["train", "valid", "test"] = "test"
    """Split to score."""

    targets: tuple[str, ...] = ()
    """Targets to score when there is no checkpoint, which defines its own. Default: all stems."""

    output: str = "evaluation"
    """Folder for tables, museval's JSON and estimates: one that all machines share, or s3://bucket/prefix."""

    mixture: bool = True
    """Score the unprocessed mixture as the estimate of each target."""

    heuristic: bool = True
    """Score a rule-based separator without any learned parameters."""

    oracles: tuple[Oracle, ...] = ("IRM2",)
    """Ideal masks to score, computed from the references."""

    save_estimates: bool = False
    """Write the estimates as 16-bit WAV files to OUTPUT/estimates."""

    excerpts: tuple[str, ...] = ("best", "median", "worst")
    """Tracks whose loudest 20 s can be played in the report: best, median and worst by SDR, or track names; [] for
    none."""

    frame_seconds: Annotated[float, Ge(0.01), AllowInfNan(False)] = 1.0
    """Length and hop of the frames that are scored; a track that is shorter is one frame."""

    num_separation_actors: PositiveInt | None = None
    """Processes that only separate, in addition to one scoring process per CPU. Default: one per GPU, and none without
    GPUs: each process then separates a track and scores it itself, so that no CPU waits for another."""

    gpus_per_actor: PositiveFloat | None = None
    """GPUs of each separation process; a fraction lets several share one. Default: a whole GPU, or an equal fraction
    when there are more processes than GPUs."""

    scale_up_timeout_minutes: NonNegativeFloat = 0
    """Time to wait for an autoscaling cluster to provide its first GPU, or another one after it lost the last; with
    separation.device=cuda. 0: a GPU must be available at the start."""

    scorer_memory_gb: PositiveFloat = 2.0
    """Memory that Ray reserves for each scoring process; one that runs out of memory is retried with twice as much."""

    separation: SeparationConfig = field(default_factory=SeparationConfig)

    def may_need_excerpt(self, track_id: str) -> bool:
        """Return whether `excerpts` can select this track, before the scores are known."""
        return any(name in EXCERPT_QUANTILES or name == track_id for name in self.excerpts)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare evaluations with the first one given."""

    runs: Annotated[tuple[str, ...], Field(min_length=1)]
    """Output folders of `cyclesep evaluate`; of a single one, all systems are compared with each other."""

    systems: tuple[str, ...] = ()
    """System to compare of each run, in the order of the runs, or one name for all. Default: the separator or the
    estimates."""

    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = ("SDR",)
    """Metrics to compare."""

    min_effect_db: NonNegativeFloat = 0.3
    """Smallest difference that counts: three trainings of one recipe with different seeds differ by 0.1 to 0.3 dB."""

    bootstrap_samples: PositiveInt = 10_000
    """Bootstrap samples for the confidence intervals."""

    output: str | None = None
    """JSON file for the comparison. Default: only print it."""


@dataclass(frozen=True, kw_only=True)
class AggregateConfig:
    """Aggregate museval's JSON files into one table."""

    folders: Annotated[tuple[str, ...], Field(min_length=1)]
    """SYSTEM folders that contain SPLIT/TRACK.json, folders of those, or output folders of `cyclesep evaluate`."""

    split: str = "test"
    """Split to aggregate: the name of its folder."""

    targets: tuple[str, ...] = ()
    """Targets to aggregate. Default: all."""

    over_frames: Average = "median"
    """Average over the frames of a track; NaN frames are excluded and counted."""

    over_tracks: Average = "median"
    """Average over tracks; tracks without a finite value are excluded and counted."""

    output: str | None = None
    """JSON file for the table. Default: only print it."""
