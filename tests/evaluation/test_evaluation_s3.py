"""An evaluation with output in S3: same files and tables as in a local folder, and finished results are reused."""

import json
from pathlib import Path

import pytest

from cyclesep.evaluation import compare
from cyclesep.evaluation.config import CompareConfig, EvaluateConfig
from cyclesep.evaluation.evaluate import evaluate
from cyclesep.storage.path import StoragePath
from tests.support.tiny_evaluation import SHORT_SEGMENTS, save_separator


@pytest.mark.usefixtures("ray_cluster")
def test_results_in_s3_equal_those_in_a_local_folder_and_are_reused(
    prefix: str, tiny_shards: Path, tmp_path: Path
) -> None:
    settings = {
        "checkpoint": str(save_separator(tmp_path / "checkpoint")),
        "shards": str(tiny_shards),
        "separation": SHORT_SEGMENTS,
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
    local_summary, s3_summary = (
        json.loads(StoragePath.of(place).read_text("summary.json")) for place in (local.output, first.output)
    )
    assert local_summary["scores"] == s3_summary["scores"]
    for name in ("museval/separator/test", "estimates/IRM2/test/Song 8"):
        assert folder.sizes(name) == StoragePath.of(local.output).sizes(name) != {}
    # All six results are reused, then five.
    assert evaluate(config).num_reused == 6
    deleted = next(name for name in folder.sizes("parts") if name.startswith("separator") and name.endswith(".json"))
    folder.delete(f"parts/{deleted}")
    again = evaluate(config)
    assert again.num_reused == 5
    assert again.table.table.equals(local.table.table)
    comparison = compare.compare(CompareConfig(runs=(local.output, first.output)))
    assert {difference.difference for difference in comparison.differences} == {0.0}
