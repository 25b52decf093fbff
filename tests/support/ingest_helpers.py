"""Small corpora of noise, and ingests of them with and without Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import soundfile

from cyclesep.data import ingest as ingest_module
from cyclesep.data.config import IngestConfig
from cyclesep.data.corpora.config import CorpusConfig
from cyclesep.data.ingest import IngestReport, ingest
from cyclesep.data.shards.manifest import MANIFEST_NAME
from cyclesep.data.shards.reading import ShardReader
from cyclesep.data.shards.verification import verify
from cyclesep.errors import ShardError


def write_noise(
    path: Path, seconds: float = 0.3, *, seed: int = 0, rate: int = 8000, channels: int = 1, **options: Any
) -> None:
    samples = np.random.default_rng(seed).uniform(-0.3, 0.3, (round(seconds * rate), channels))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)


def write_songs(root: Path, names: str = "abc") -> Path:
    """Write songs with two stems each, named by the letters of `names`."""
    for seed, name in enumerate(names):
        write_noise(root / name / "vocals.wav", seed=seed)
        write_noise(root / name / "drums.wav", seed=100 + seed)
    return root


def ingest_config(root: Path, output: Path | str, **options: Any) -> IngestConfig:
    corpus = CorpusConfig(kind="stems", path=str(root), valid_fraction=0.0, test_fraction=0.0)
    settings: dict[str, Any] = {"sample_rate": 8000, "channels": 1, "segment_seconds": 0.125} | options
    return IngestConfig(corpus=corpus, output=str(output), **settings)


def ingest_arguments(config: IngestConfig) -> list[str]:
    """Return the command-line arguments for a config of `ingest_config`."""
    corpus = config.corpus
    return [
        "corpus.kind=stems",
        f"corpus.path={corpus.path}",
        f"corpus.valid_fraction={corpus.valid_fraction}",
        f"corpus.test_fraction={corpus.test_fraction}",
        f"output={config.output}",
        f"sample_rate={config.sample_rate}",
        f"channels={config.channels}",
        f"segment_seconds={config.segment_seconds}",
    ]


def ingest_without_ray(config: IngestConfig) -> IngestReport:
    """Ingest in this process, one track after the other."""

    def outcomes(tracks: Any, config: IngestConfig, folder: Path) -> Iterator[Any]:
        return (ingest_module.ingest_track(track, config, folder) for track in tracks)

    with mock.patch.object(ingest_module, "_outcomes", outcomes):
        return ingest(config)


def file_names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder.exists() else frozenset()


def corpus_digest(folder: Path) -> str | None:
    """Verify a corpus and return its digest; None if there is no manifest."""
    if not (folder / MANIFEST_NAME).exists():
        with pytest.raises(ShardError, match=r"manifest\.json not found"):
            ShardReader(folder)
        return None
    return verify(folder, num_threads=1).digest
