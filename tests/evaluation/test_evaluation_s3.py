"""An evaluation whose results lie in S3: the same files and tables, and a second run that does only what is missing."""

import json
from pathlib import Path

import pytest

from cyclesep.evaluation import compare
from cyclesep.evaluation.config import CompareConfig, EvaluateConfig
from cyclesep.evaluation.evaluate import evaluate
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import WINDOWS, save_separator


@pytest.mark.usefixtures("ray_cluster")
def test_results_in_s3_are_those_of_a_local_folder_and_are_kept(prefix: str, tiny_shards: Path, tmp_path: Path) -> None:
    settings = {
        "checkpoint": str(save_separator(tmp_path / "checkpoint")),
        "shards": str(tiny_shards),
        "separation": WINDOWS,
        "heuristic": False,
        "save_estimates": True,
    }
    local = evaluate(EvaluateConfig(output=str(tmp_path / "out"), **settings))  # type: ignore[arg-type]
    config = EvaluateConfig(output=f"{prefix}/out", **settings)  # type: ignore[arg-type]
    first = evaluate(config)
    assert first.output == f"{prefix}/out"
    assert first.table.table.equals(local.table.table)
    folder = StoragePath.of(first.output)
    assert sorted(folder.sizes("")) == ["evaluation.yaml", "scores.parquet", "summary.json", "tracks.parquet"]
    here, there = (
        json.loads(StoragePath.of(place).read_text("summary.json")) for place in (local.output, first.output)
    )
    assert here["scores"] == there["scores"]
    for name in ("museval/separator/test", "estimates/IRM2/test/Song 8"):
        assert folder.sizes(name) == StoragePath.of(local.output).sizes(name) != {}
    # Nothing is left to do, then one part of six.
    assert evaluate(config).num_reused == 6
    lost = next(name for name in folder.sizes("parts") if name.startswith("separator") and name.endswith(".json"))
    folder.delete(f"parts/{lost}")
    again = evaluate(config)
    assert again.num_reused == 5
    assert again.table.table.equals(local.table.table)
    compared = compare.compare(CompareConfig(runs=(local.output, first.output)))
    assert {difference.difference for difference in compared.differences} == {0.0}
