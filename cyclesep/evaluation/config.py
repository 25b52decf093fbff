"""What is evaluated, on which music, beside what."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge
from pydantic import AllowInfNan, NonNegativeFloat, PositiveFloat, PositiveInt

from cyclesep.data.corpora.corpus import CorpusConfig
from cyclesep.inference.chunked_inference import SeparationConfig

Oracle = Literal["IRM1", "IRM2", "IBM", "MWF"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A separator or a folder of estimates, scored on a split beside the mixture, a blind heuristic and oracles."""

    checkpoint: str | None = None
    """Checkpoint or run folder of the separator to score; none: only what else is asked for."""

    estimates: str | None = None
    """StoragePath of estimates to score, as museval lays them out: SPLIT/TRACK/TARGET.wav (or flac)."""

    name: str = "separator"
    """What the separator is called in the tables; estimates are called by the name of their folder."""

    shards: str | None = None
    """StoragePath or s3://bucket/prefix of shards that hold the references, at the rate of the shards; or give a corpus."""

    corpus: CorpusConfig | None = None
    """Music that holds the references, at its original rate, set as for ingest (corpus.kind=...); or give shards."""

    split: Literal["train", "valid", "test"] = "test"
    """Which tracks."""

    targets: tuple[str, ...] = ()
    """What is scored if there is no checkpoint to tell; none: all stems."""

    output: str = "evaluation"
    """StoragePath for tables, museval's JSON and estimates: one that all machines share, or s3://bucket/prefix."""

    mixture: bool = True
    """Whether the untouched mixture is scored as if it were each target."""

    heuristic: bool = True
    """Whether a blind separator that has learned nothing is scored."""

    oracles: tuple[Oracle, ...] = ("IRM2",)
    """Ideal masks, made from the references, to be scored."""

    save_estimates: bool = False
    """Whether what was separated is written as 16-bit wav files below OUTPUT/estimates."""

    excerpts: tuple[str, ...] = ("best", "median", "worst")
    """Tracks whose loudest 20 s the report lets one hear: best, median and worst by SDR, or names; [] for none."""

    frame_seconds: Annotated[float, Ge(0.01), AllowInfNan(False)] = 1.0
    """Length of the frames that are scored, and their distance; a track that is shorter is one frame."""

    num_separation_actors: PositiveInt | None = None
    """Processes that only separate, beside one per CPU that scores; none: one per GPU, and without GPUs none: there a
    process separates a track and scores it at once, so that no CPU waits for another."""

    gpus_per_actor: PositiveFloat | None = None
    """GPUs of each such process, a fraction where several share one; none: a whole one, or an equal share where more
    processes are asked for than the cluster has GPUs."""

    scale_up_timeout_minutes: NonNegativeFloat = 0
    """How long a cluster that grows on demand has for its first GPU, or for another one if it loses the last; with
    separation.device=cuda. 0: there must be one at the start."""

    scorer_memory_gb: PositiveFloat = 2.0
    """Memory that Ray sets aside for each process that scores; one that runs out is tried again with twice as much."""

    separation: SeparationConfig = field(default_factory=SeparationConfig)
