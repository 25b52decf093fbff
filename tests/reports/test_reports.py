"""HTML reports as files: content, size, excerpts and figures."""

import html.parser
import importlib.resources
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyclesep.audio.audio_io import Waveform
from cyclesep.audio.spectrogram_image import frequency_marks, spectrogram_pixels
from cyclesep.cli.main import run_job
from cyclesep.errors import ConfigError, StorageError
from cyclesep.evaluation.config import EvaluateConfig
from cyclesep.evaluation.evaluate import evaluate
from cyclesep.evaluation.excerpts import Excerpt, delete_excerpts, finished_excerpts, make_excerpt
from cyclesep.metrics import score_track
from cyclesep.reports.audio_player import make_player
from cyclesep.reports.evaluation_report import write_evaluation_report
from cyclesep.reports.figures import Curve, PointGroup, PointLabel, curve_figure, strip_figure
from cyclesep.reports.jinja import clock, jinja_environment, number
from cyclesep.reports.training_report import write_training_report
from cyclesep.reports.write_reports import write_report
from cyclesep.storage.path import StoragePath
from tests.support.paths import CHECKOUT
from tests.support.report_folders import HOSTILE, RATE, tone, write_evaluation, write_excerpt
from tests.support.tiny_evaluation import SHORT_SEGMENTS, save_separator

VOID = {"meta", "link", "img", "input", "br"}


class Tags(html.parser.HTMLParser):
    """Checks that every element is closed, and collects addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "srcset") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read_page(page: str) -> str:
    return Path(page).read_text(encoding="utf-8")


def test_page_is_well_formed_and_has_no_external_addresses(tmp_path: Path) -> None:
    text = read_page(write_evaluation_report(write_evaluation(tmp_path, ["One", HOSTILE], excerpts=[HOSTILE])))
    tags = Tags(text)
    assert tags.open == []
    assert {address[:5] for address in tags.addresses} == {"data:", *(a[:5] for a in tags.addresses if a[0] == "#")}
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_page_is_reproducible_except_ids(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, ["One", "Two"], excerpts=["One"])
    first, again = (re.sub(r"figure\d+-", "", read_page(write_evaluation_report(folder))) for _ in range(2))
    assert first == again


def test_evaluation_of_a_silent_track_has_a_page(tmp_path: Path) -> None:
    text = read_page(write_evaluation_report(write_evaluation(tmp_path, ["Only"], silent=["Only"], excerpts=["Only"])))
    assert "no SDR of vocals" in text
    assert '<td class="number" data-value="">–</td>' in text
    assert "nan" not in re.sub(r"[\w+/=]{80,}", "", text).lower().replace("nan_frames", "").replace(">nan<", "").split()


def test_page_of_fifty_tracks_is_small_apart_from_audio(tmp_path: Path) -> None:
    tracks = [f"Artist {n} - A title of some length {n}" for n in range(50)]
    text = read_page(write_evaluation_report(write_evaluation(tmp_path, tracks, seconds=30, excerpts=tracks[:3])))
    audio_bytes = sum(map(len, re.findall(r'class="sounds">(.*?)</script>', text)))
    assert 100_000 < audio_bytes < 400_000
    assert len(text.encode()) - audio_bytes < 1_500_000
    assert text.count('class="player"') == 3


def test_page_omits_excerpts_beyond_the_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_evaluation(tmp_path, ["One", "Two"], excerpts=["One", "Two"])
    excerpt = Excerpt.read(folder, "separator-0")
    size = make_player(excerpt, {}, note="", colours={}, frame_seconds=1.0).num_bytes
    monkeypatch.setattr("cyclesep.reports.evaluation_report.MAX_AUDIO_BYTES", size * 1.5)
    text = read_page(write_evaluation_report(folder))
    assert text.count('class="player"') == 1
    assert "1 more excerpts are omitted to limit the size of this file" in text


def test_page_in_s3_equals_local_page(prefix: str, tmp_path: Path) -> None:
    local, remote = (write_evaluation(parent, ["One"], excerpts=["One"]) for parent in (tmp_path, prefix))
    assert read_page(write_evaluation_report(local)).count('class="player"') == 1
    uri = write_evaluation_report(remote.uri)
    assert uri == f"{prefix.rstrip('/')}/report.html"
    pages = [re.sub(r"figure\d+-", "", folder.read_text("report.html")) for folder in (local, remote)]
    assert pages[0] == pages[1]


def test_templates_are_part_of_the_package() -> None:
    folder = importlib.resources.files("cyclesep.reports") / "templates"
    names = {path.name for path in folder.iterdir()}
    assert {"base.html", "parts.html", "style.css", "page.js"} <= names
    assert all(jinja_environment().get_template(name) for name in names if name.endswith(".html"))


def test_wheel_contains_the_templates(tmp_path: Path) -> None:
    root, source = CHECKOUT, tmp_path / "source"
    shutil.copytree(root / "cyclesep", source / "cyclesep", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(root / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    templates = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/reports/templates/" in name}
    assert templates == {path.name for path in (root / "cyclesep/reports/templates").iterdir()}


def test_reports_import_neither_torch_nor_ray() -> None:
    modules = "cyclesep.reports.evaluation_report, cyclesep.reports.training_report"
    code = f"import sys, {modules}; print({{'torch', 'ray'}} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def waves(**samples: Any) -> dict[str, Waveform]:
    return {name: Waveform(samples=np.float32(each)[None], sample_rate=100) for name, each in samples.items()}


def test_excerpt_is_the_loudest_section_of_the_first_target() -> None:
    vocals = np.zeros(100 * 60)
    vocals[3500:4500] = 0.5
    vocals[100:200] = 0.1
    drums = np.full(100 * 60, 0.25)
    stems = waves(mixture=vocals + drums, vocals=vocals, drums=drums)
    estimates = waves(vocals=0.9 * vocals, accompaniment=drums + 0.1 * vocals)
    excerpt = make_excerpt(stems, estimates, system="x", track_id="t", split="test")
    assert (excerpt.start_seconds, excerpt.seconds) == (25.0, 20.0)
    np.testing.assert_allclose(excerpt.mixture, (vocals + drums)[2500:4500], atol=1e-6)
    np.testing.assert_allclose(excerpt.references["accompaniment"], drums[2500:4500], atol=1e-6)
    np.testing.assert_allclose(excerpt.estimates["vocals"], 0.9 * vocals[2500:4500], atol=1e-6)


def test_excerpt_of_a_short_track_is_whole_and_pads_short_estimates() -> None:
    stems = waves(mixture=np.ones(50) * 0.5, vocals=np.ones(50) * 0.25, other=np.ones(50) * 0.25)
    excerpt = make_excerpt(stems, waves(vocals=np.ones(30) * 0.25), system="x", track_id="t", split="test")
    assert (excerpt.start_seconds, len(excerpt.mixture)) == (0.0, 50)
    np.testing.assert_allclose(excerpt.estimates["vocals"], [0.25] * 30 + [0.0] * 20)


def test_excerpt_cuts_long_estimates() -> None:
    stems = waves(mixture=np.ones(50) * 0.5, vocals=np.ones(50) * 0.25, other=np.ones(50) * 0.25)
    excerpt = make_excerpt(stems, waves(vocals=np.ones(80) * 0.25), system="x", track_id="t", split="test")
    np.testing.assert_allclose(excerpt.estimates["vocals"], [0.25] * 50)


@pytest.mark.parametrize(
    ("estimated", "summed"), [((), ("drums", "bass")), (("drums",), ("vocals", "bass")), (("drums", "bass"), None)]
)
def test_accompaniment_reference_is_the_scored_one(estimated: tuple[str, ...], summed: tuple[str, ...] | None) -> None:
    rng = np.random.default_rng(0)
    stems = {name: np.rint(rng.normal(0, 3000, 4000)) / 32768 for name in ("vocals", "drums", "bass")}
    estimates = waves(**{name: stems[name] for name in (*estimated, "accompaniment") if name in stems})
    estimates |= waves(accompaniment=sum(stems[name] for name in summed or ("drums", "bass")))
    excerpt = make_excerpt(
        waves(mixture=sum(stems.values()), **stems), estimates, system="x", track_id="t", split="test"
    )
    np.testing.assert_array_equal(excerpt.references["accompaniment"], excerpt.estimates["accompaniment"])
    assert score_track(waves(**stems), estimates).of("accompaniment").usdr == np.inf


def test_unwritable_excerpt_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "excerpts").write_text("no folder")
    stems = waves(mixture=np.ones(50), vocals=np.ones(50))
    make_excerpt(stems, waves(vocals=np.ones(50)), system="x", track_id="t", split="test").write(
        StoragePath.of(tmp_path), "n"
    )
    assert "x: t: excerpt for the report not written" in caplog.text


def test_excerpt_round_trip_uses_a_common_gain(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    excerpt = Excerpt(
        system="x", track_id=HOSTILE, split="test", start_seconds=3.0, sample_rate=RATE, mixture=tone(500, 1.5),
        references={"vocals": tone(500, 0.5)}, estimates={"vocals": tone(700, 0.25)},
    )  # fmt: skip
    excerpt.write(folder, "one")
    loaded = Excerpt.read(folder, "one")
    assert replace(loaded, mixture=0, references={}, estimates={}) == replace(
        excerpt, mixture=0, references={}, estimates={}
    )  # type: ignore[arg-type]
    for name, signal in excerpt.signals.items():
        np.testing.assert_allclose(loaded.signals[name], signal / 2, atol=2**-16)
    assert finished_excerpts(folder) == {"one"}
    delete_excerpts(folder, {"one"})
    assert list((tmp_path / "excerpts").iterdir()) == []


def test_damaged_excerpt_raises_with_its_location(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    write_excerpt(folder, "one", "track")
    (tmp_path / "excerpts/one.vocals.estimate.flac").write_bytes(b"no audio")
    with pytest.raises(StorageError, match=r"excerpts/one: excerpt is damaged .* evaluate again"):
        Excerpt.read(folder, "one")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_separator(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def configured(checkpoint: Path, tiny_shards: Path) -> Callable[..., EvaluateConfig]:
    def build(**changes: Any) -> EvaluateConfig:
        return EvaluateConfig(checkpoint=str(checkpoint), shards=str(tiny_shards), separation=SHORT_SEGMENTS, **changes)

    return build


@pytest.mark.usefixtures("ray_cluster")
def test_evaluation_saves_requested_excerpts_and_has_a_report(
    configured: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    done = evaluate(configured(output=str(tmp_path), excerpts=("worst", "best")))
    names = json.loads((tmp_path / "summary.json").read_text())["excerpts"]
    folder = StoragePath.of(tmp_path)
    assert finished_excerpts(folder) == set(names)
    excerpts = [Excerpt.read(folder, name) for name in names]
    vocals = {
        row.track_id: row.values["SDR"]
        for row in done.tracks.rows
        if (row.system, row.target) == ("separator", "vocals")
    }
    assert [excerpt.track_id for excerpt in excerpts] == sorted(vocals, key=lambda track: vocals[track])
    assert {excerpt.system for excerpt in excerpts} == {"separator"}
    assert list(excerpts[0].references) == ["vocals", "accompaniment"]
    text = read_page(write_evaluation_report(done.output))
    Tags(text)
    assert f"worst of 2 by SDR of vocals: {number(min(vocals.values()))} dB" in text
    assert "<dt>seed</dt><dd>0</dd>" in text


@pytest.mark.usefixtures("ray_cluster")
def test_excerpts_of_named_tracks_and_unknown_tracks(configured: Callable[..., EvaluateConfig], tmp_path: Path) -> None:
    done = evaluate(configured(output=str(tmp_path), excerpts=("Song 9",), mixture=False, heuristic=False, oracles=()))
    (name,) = finished_excerpts(done.results.folder)
    assert Excerpt.read(done.results.folder, name).track_id == "Song 9"
    with pytest.raises(
        ConfigError, match=r"excerpts: track 'Song 1' not found in the test split; give names of its tracks, or best"
    ):
        evaluate(configured(output=str(tmp_path), excerpts=("Song 1",)))
    quiet = evaluate(
        configured(output=str(tmp_path / "quiet"), excerpts=(), mixture=False, heuristic=False, oracles=())
    )
    assert finished_excerpts(quiet.results.folder) == set()
    assert "No excerpts:" in read_page(write_evaluation_report(quiet.output))


def write_run(folder: Path) -> Path:
    """Write a finished run without TensorBoard event files."""
    save_separator(folder / "step-00000002")
    (folder / "run.json").write_text('{"best": "step-00000002", "last": "step-00000002"}')
    (folder / "config.yaml").write_text("name: <b>run</b>\nseed: 3\n")
    rows = [
        {"step": step, "separator/total": 2.0 - step / 4, "validation/sdr": step, "perf/data_wait_fraction": 0.01}
        for step in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[-1]]))
    return folder


def test_training_report_has_curves_cards_and_config(tmp_path: Path) -> None:
    text = read_page(write_training_report(write_run(tmp_path / "run")))
    Tags(text)
    for caption in ("Validation SDR", "Total loss of the separator", "waiting for data"):
        assert text.count(f"<figcaption>{caption}") + text.count(caption) >= 1
    assert len(re.findall(r'aria-label="sdr: \d', text)) == 2
    assert "best checkpoint, step-00000002" in text
    assert re.search(r"<dt>separator</dt>\s*<dd>waveunet</dd>", text)
    assert "&lt;b&gt;run&lt;/b&gt;" in text


def test_report_command_writes_both_kinds_and_rejects_other_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation, run = write_evaluation(tmp_path / "evaluation", ["One"]).uri, write_run(tmp_path / "run")
    with pytest.raises(SystemExit) as exit_info:
        run_job("report", [str(evaluation), str(run)])
    assert exit_info.value.code == 0
    output = capsys.readouterr().out
    assert output == "".join(f"report: {folder}/report.html (open it in a browser)\n" for folder in (evaluation, run))
    with pytest.raises(SystemExit) as exit_info:
        run_job("report", [str(tmp_path)])
    assert exit_info.value.code == 1
    assert "contains neither summary.json of an evaluation nor run.json of a finished run" in capsys.readouterr().err


def test_unwritable_report_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, write_evaluation_report)
    assert capsys.readouterr().err.startswith(f"warning: no report was written: {tmp_path}/summary.json: is missing")


def test_points_have_labels_and_texts_are_not_parsed_as_math() -> None:
    labels = [PointLabel(text=f"{HOSTILE} {index}", link="x") for index in range(3)]
    groups = [
        PointGroup(name="$a_1$ <b>", values=[1.0, np.nan, 3.0], labels=labels),
        PointGroup(name="none", values=[], labels=[]),
    ]
    svg = strip_figure(groups, axis="dB", label="a < b")
    Tags(svg)
    assert svg.count('class="mark"') == 2
    assert re.findall(r"(\d)\" data-link", svg) == ["0", "2"]
    assert "$a_1$ &lt;b&gt;" in svg
    assert 'aria-label="a &lt; b"' in svg
    assert not re.search("#0[12]f[de]", svg)


def test_names_that_look_like_colours_or_references_are_unchanged() -> None:
    name = "#01fe01 #02fd99 url(#x)"
    svg = strip_figure(
        [PointGroup(name="a", values=[1.0], labels=[PointLabel(text=name, link=name)])], axis="dB", label=name
    )
    assert svg.count(name) == 3


def test_long_curve_has_few_labelled_points() -> None:
    svg = curve_figure([Curve(name="loss", x=range(5000), y=list(np.arange(5000.0)))], axis="", along="step", label="x")
    assert svg.count('class="mark"') == 60
    assert len(svg) < 60_000


def test_spectrogram_is_brightest_at_the_tone() -> None:
    pixels = spectrogram_pixels({"tone": tone(1000, 0.5), "softer": tone(1000, 0.005)}, RATE)
    bright = pixels["tone"].astype(int).sum(axis=2)[:, 360]
    ((_, low), (_, height)) = frequency_marks(RATE)
    assert low < height
    assert 1 - np.argmax(bright) / len(bright) == pytest.approx(height, abs=0.02)
    assert bright.max() > pixels["softer"].astype(int).sum(axis=2)[:, 360].max()


def test_format_of_numbers_and_durations() -> None:
    assert [number(-1.005, 1), number(1234.5), number(float("nan")), number(None)] == [
        "\N{MINUS SIGN}1.0",
        "1,234.50",
        "–",
        "–",
    ]
    assert [clock(0.0), clock(64.6), clock(3600.0)] == ["0:00", "1:05", "60:00"]
