"""The recipe benchmark: every recipe trains on the same songs, finished rows are not run again."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks import recipe_runs
from benchmarks.recipes import RUNS, SHOWN, SUPERVISED, RecipesBenchmark, run
from cyclesep.data.corpora.composer.config import SyntheticConfig
from cyclesep.data.crops.config import CropConfig
from cyclesep.errors import ConfigError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RecipesBenchmark:
    return RecipesBenchmark(
        folder=str(tmp_path_factory.mktemp("recipes")),
        seeds=1,
        steps=1,
        width=8,
        depth=1,
        crops=CropConfig(crop_seconds=0.3, batch_size=4),
        songs=SyntheticConfig(num_train=4, num_valid=0, num_test=1, seconds=3.0),
    )


def test_every_row_is_run_once_and_compared_with_mixture_and_oracle(
    tiny: RecipesBenchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table,) = run(tiny)
    assert [row.method for row in table.rows] == [*RUNS, "mixture", "oracle IRM2"]
    assert table.baseline == SUPERVISED
    rows = {row.method: row for row in table.rows}
    assert rows["mixture"].rate == 0
    assert rows["oracle IRM2"].rate > 5
    mixture_si_sdr = float(rows["mixture"].columns["SI-SDR"])
    for row in table.rows:
        assert row.rate == pytest.approx(float(row.columns["SI-SDR"]) - mixture_si_sdr)
        assert all(math.isfinite(float(row.columns[metric])) for metric in SHOWN)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a finished row is run again")

    monkeypatch.setattr(recipe_runs, "train", fail)
    monkeypatch.setattr(recipe_runs, "REFERENCES", {"mixture": fail})
    monkeypatch.setattr(recipe_runs, "write_songs", fail)
    assert run(tiny) == [table]
    with pytest.raises(AssertionError, match="run again"):
        run(dataclasses.replace(tiny, steps=2))


def test_results_are_json_lines_with_run_seed_and_cost(tiny: RecipesBenchmark) -> None:
    few = dataclasses.replace(tiny, folder=f"{tiny.folder}/few", runs=(SUPERVISED,), seeds=2)
    run(few)
    lines = [json.loads(line) for line in (Path(few.folder) / "rows.jsonl").read_text().splitlines()]
    made = [line for line in lines if line["method"] == SUPERVISED]
    assert [line["seed"] for line in made] == [0, 1]
    assert all(line["steps"] == 1 and line["CPU s"] > 0 and line["parameters"] > 1000 for line in made)
    assert len({line["SDR"] for line in made}) == 2


def test_an_unknown_row_raises_and_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no row named 'remixed'; known: supervised, paired"):
        run(RecipesBenchmark(runs=("remixed",)))
