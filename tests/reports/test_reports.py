"""Pages as files: what stands in them, how large they are, and what is chosen to be heard."""

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
from cyclesep.reports.figures import Curve, Group, Mark, curve_figure, strip_figure
from cyclesep.reports.jinja import clock, jinja_environment, number
from cyclesep.reports.report import write_report
from cyclesep.reports.training_report import write_training_report
from cyclesep.storage.path import StoragePath
from tests.support.paths import CHECKOUT
from tests.support.report_folders import HOSTILE, RATE, tone, write_evaluation, write_excerpt
from tests.support.tiny_evaluation import WINDOWS, save_separator

VOID = {"meta", "link", "img", "input", "br"}


class Tags(html.parser.HTMLParser):
    """Sees that every element is closed in its turn, and gathers addresses."""

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


def written(page: str) -> str:
    return Path(page).read_text(encoding="utf-8")


def test_a_page_is_well_formed_and_names_no_address_outside_itself(tmp_path: Path) -> None:
    text = written(write_evaluation_report(write_evaluation(tmp_path, ["One", HOSTILE], excerpts=[HOSTILE])))
    tags = Tags(text)
    assert tags.open == []
    assert {address[:5] for address in tags.addresses} == {"data:", *(a[:5] for a in tags.addresses if a[0] == "#")}
    assert not re.search(r"url\((?!#)|@import|https?://", text)


def test_the_same_page_is_written_the_same_apart_from_ids(tmp_path: Path) -> None:
    folder = write_evaluation(tmp_path, ["One", "Two"], excerpts=["One"])
    first, again = (re.sub(r"figure\d+-", "", written(write_evaluation_report(folder))) for _ in range(2))
    assert first == again


def test_one_track_and_silent_tracks_have_a_page(tmp_path: Path) -> None:
    text = written(write_evaluation_report(write_evaluation(tmp_path, ["Only"], silent=["Only"], excerpts=["Only"])))
    assert "vocals has no SDR here" in text
    assert '<td class="number" data-value="">–</td>' in text
    assert "nan" not in re.sub(r"[\w+/=]{80,}", "", text).lower().replace("nan_frames", "").replace(">nan<", "").split()


def test_fifty_tracks_take_less_than_a_megabyte_beside_their_sounds(tmp_path: Path) -> None:
    tracks = [f"Artist {n} - A title of some length {n}" for n in range(50)]
    text = written(write_evaluation_report(write_evaluation(tmp_path, tracks, seconds=30, excerpts=tracks[:3])))
    sounds = sum(map(len, re.findall(r'class="sounds">(.*?)</script>', text)))
    assert 100_000 < sounds < 400_000
    assert len(text.encode()) - sounds < 1_500_000
    assert text.count('class="player"') == 3


def test_sounds_beyond_the_bound_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_evaluation(tmp_path, ["One", "Two"], excerpts=["One", "Two"])
    excerpt = Excerpt.read(folder, "separator-0")
    size = make_player(excerpt, {}, rank="", colours={}, frame_seconds=1.0).num_bytes
    monkeypatch.setattr("cyclesep.reports.evaluation_report.MOST_SOUND_BYTES", size * 1.5)
    text = written(write_evaluation_report(folder))
    assert text.count('class="player"') == 1
    assert "1 more would make this file too large" in text


def test_a_page_in_s3_is_the_page_on_disk(prefix: str, tmp_path: Path) -> None:
    here, there = (write_evaluation(place, ["One"], excerpts=["One"]) for place in (tmp_path, prefix))
    assert written(write_evaluation_report(here)).count('class="player"') == 1
    place = write_evaluation_report(there.place)
    assert place == f"{prefix.rstrip('/')}/report.html"
    pages = [re.sub(r"figure\d+-", "", folder.read_text("report.html")) for folder in (here, there)]
    assert pages[0] == pages[1]


def test_templates_are_part_of_the_package() -> None:
    folder = importlib.resources.files("cyclesep.reports") / "templates"
    names = {path.name for path in folder.iterdir()}
    assert {"base.html", "parts.html", "style.css", "page.js"} <= names
    assert all(jinja_environment().get_template(name) for name in names if name.endswith(".html"))


def test_a_wheel_holds_the_templates(tmp_path: Path) -> None:
    root, source = CHECKOUT, tmp_path / "source"
    shutil.copytree(root / "cyclesep", source / "cyclesep", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements.txt"):
        shutil.copy(root / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "/pages/templates/" in name}
    assert held == {path.name for path in (root / "cyclesep/pages/templates").iterdir()}


def test_pages_import_neither_torch_nor_ray() -> None:
    told = "import sys, cyclesep.reports; print({'torch', 'ray'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def waves(**samples: Any) -> dict[str, Waveform]:
    return {name: Waveform(samples=np.float32(each)[None], sample_rate=100) for name, each in samples.items()}


def test_an_excerpt_is_the_loudest_stretch_of_the_first_target() -> None:
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


def test_an_excerpt_of_a_short_track_is_all_of_it_and_short_estimates_end_in_silence() -> None:
    stems = waves(mixture=np.ones(50) * 0.5, vocals=np.ones(50) * 0.25, other=np.ones(50) * 0.25)
    excerpt = make_excerpt(stems, waves(vocals=np.ones(30) * 0.25), system="x", track_id="t", split="test")
    assert (excerpt.start_seconds, len(excerpt.mixture)) == (0.0, 50)
    np.testing.assert_allclose(excerpt.estimates["vocals"], [0.25] * 30 + [0.0] * 20)


def test_an_estimate_longer_than_a_short_track_is_cut_to_it() -> None:
    stems = waves(mixture=np.ones(50) * 0.5, vocals=np.ones(50) * 0.25, other=np.ones(50) * 0.25)
    excerpt = make_excerpt(stems, waves(vocals=np.ones(80) * 0.25), system="x", track_id="t", split="test")
    np.testing.assert_allclose(excerpt.estimates["vocals"], [0.25] * 50)


@pytest.mark.parametrize(
    ("estimated", "made_of"), [((), ("drums", "bass")), (("drums",), ("vocals", "bass")), (("drums", "bass"), None)]
)
def test_the_truth_of_an_accompaniment_is_that_which_is_scored(
    estimated: tuple[str, ...], made_of: tuple[str, ...] | None
) -> None:
    rng = np.random.default_rng(0)
    stems = {name: np.rint(rng.normal(0, 3000, 4000)) / 32768 for name in ("vocals", "drums", "bass")}
    estimates = waves(**{name: stems[name] for name in (*estimated, "accompaniment") if name in stems})
    estimates |= waves(accompaniment=sum(stems[name] for name in made_of or ("drums", "bass")))
    excerpt = make_excerpt(
        waves(mixture=sum(stems.values()), **stems), estimates, system="x", track_id="t", split="test"
    )
    np.testing.assert_array_equal(excerpt.references["accompaniment"], excerpt.estimates["accompaniment"])
    assert score_track(waves(**stems), estimates).of("accompaniment").usdr == np.inf


def test_an_excerpt_that_cannot_be_written_is_a_warning_and_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "excerpts").write_text("no folder")
    stems = waves(mixture=np.ones(50), vocals=np.ones(50))
    make_excerpt(stems, waves(vocals=np.ones(50)), system="x", track_id="t", split="test").write(
        StoragePath.of(tmp_path), "n"
    )
    assert "x: t: kept no excerpt to be heard" in caplog.text


def test_an_excerpt_comes_back_from_disk_at_one_gain(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    excerpt = Excerpt(
        system="x", track_id=HOSTILE, split="test", start_seconds=3.0, sample_rate=RATE, mixture=tone(500, 1.5),
        references={"vocals": tone(500, 0.5)}, estimates={"vocals": tone(700, 0.25)},
    )  # fmt: skip
    excerpt.write(folder, "one")
    back = Excerpt.read(folder, "one")
    assert replace(back, mixture=0, references={}, estimates={}) == replace(
        excerpt, mixture=0, references={}, estimates={}
    )  # type: ignore[arg-type]
    for name, signal in excerpt.signals.items():
        np.testing.assert_allclose(back.signals[name], signal / 2, atol=2**-16)
    assert finished_excerpts(folder) == {"one"}
    delete_excerpts(folder, {"one"})
    assert list((tmp_path / "excerpts").iterdir()) == []


def test_a_damaged_excerpt_is_told_with_its_place(tmp_path: Path) -> None:
    folder = StoragePath.of(tmp_path)
    write_excerpt(folder, "one", "track")
    (tmp_path / "excerpts/one.vocals.estimate.flac").write_bytes(b"no audio")
    with pytest.raises(StorageError, match=r"excerpts/one: is damaged .* evaluate again"):
        Excerpt.read(folder, "one")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_separator(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def configured(checkpoint: Path, tiny_shards: Path) -> Callable[..., EvaluateConfig]:
    def build(**changes: Any) -> EvaluateConfig:
        return EvaluateConfig(checkpoint=str(checkpoint), shards=str(tiny_shards), separation=WINDOWS, **changes)

    return build


@pytest.mark.usefixtures("ray_cluster")
def test_a_real_evaluation_keeps_what_is_to_be_heard_and_gets_its_page(
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
    text = written(write_evaluation_report(done.output))
    Tags(text)
    assert f"worst of 2 by SDR of vocals: {number(min(vocals.values()))} dB" in text
    assert "<dt>seed</dt><dd>0</dd>" in text


@pytest.mark.usefixtures("ray_cluster")
def test_only_a_named_track_is_kept_and_a_name_of_none_is_refused(
    configured: Callable[..., EvaluateConfig], tmp_path: Path
) -> None:
    done = evaluate(configured(output=str(tmp_path), excerpts=("Song 9",), mixture=False, heuristic=False, oracles=()))
    (name,) = finished_excerpts(done.results.folder)
    assert Excerpt.read(done.results.folder, name).track_id == "Song 9"
    with pytest.raises(ConfigError, match=r"heard: the test split holds no track 'Song 1'; name its tracks, or best"):
        evaluate(configured(output=str(tmp_path), excerpts=("Song 1",)))
    quiet = evaluate(
        configured(output=str(tmp_path / "quiet"), excerpts=(), mixture=False, heuristic=False, oracles=())
    )
    assert finished_excerpts(quiet.results.folder) == set()
    assert "No audio was kept" in written(write_evaluation_report(quiet.output))


def write_run(folder: Path) -> Path:
    """A finished run without TensorBoard's files."""
    save_separator(folder / "step-00000002")
    (folder / "run.json").write_text('{"best": "step-00000002", "last": "step-00000002"}')
    (folder / "config.yaml").write_text("name: <b>run</b>\nseed: 3\n")
    rows = [
        {"step": step, "separator/total": 2.0 - step / 4, "validation/sdr": step, "perf/data_wait_fraction": 0.01}
        for step in (1, 2)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[-1]]))
    return folder


def test_a_run_has_its_curves_its_card_and_its_config(tmp_path: Path) -> None:
    text = written(write_training_report(write_run(tmp_path / "run")))
    Tags(text)
    for caption in ("SDR of the validation crops", "Weighted sum of the separator", "wait for data"):
        assert text.count(f"<figcaption>{caption}") + text.count(caption) >= 1
    assert len(re.findall(r'aria-label="sdr: \d', text)) == 2
    assert "best checkpoint, step-00000002" in text
    assert re.search(r"<dt>separator</dt>\s*<dd>waveunet</dd>", text)
    assert "&lt;b&gt;run&lt;/b&gt;" in text


def test_the_command_writes_pages_of_both_kinds_and_refuses_other_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation, run = write_evaluation(tmp_path / "evaluation", ["One"]).place, write_run(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        run_job("report", [str(evaluation), str(run)])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert told == "".join(f"report: {folder}/report.html (open it in a browser)\n" for folder in (evaluation, run))
    with pytest.raises(SystemExit) as ended:
        run_job("report", [str(tmp_path)])
    assert ended.value.code == 1
    assert "holds neither summary.json of an evaluation nor run.json of a finished run" in capsys.readouterr().err


def test_a_job_survives_a_page_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path, write_evaluation_report)
    assert capsys.readouterr().err.startswith(f"warning: there is no report: {tmp_path}/summary.json: is missing")


def test_points_of_figures_are_named_and_texts_are_no_formulas() -> None:
    marks = [Mark(told=f"{HOSTILE} {index}", link="x") for index in range(3)]
    groups = [Group(name="$a_1$ <b>", values=[1.0, np.nan, 3.0], marks=marks), Group(name="none", values=[], marks=[])]
    svg = strip_figure(groups, axis="dB", label="a < b")
    Tags(svg)
    assert svg.count('class="mark"') == 2
    assert re.findall(r"(\d)\" data-link", svg) == ["0", "2"]
    assert "$a_1$ &lt;b&gt;" in svg
    assert 'aria-label="a &lt; b"' in svg
    assert not re.search("#0[12]f[de]", svg)


def test_a_name_that_looks_like_a_colour_or_a_reference_stays_as_it_is() -> None:
    name = "#01fe01 #02fd99 url(#x)"
    svg = strip_figure([Group(name="a", values=[1.0], marks=[Mark(told=name, link=name)])], axis="dB", label=name)
    assert svg.count(name) == 3


def test_a_long_curve_has_few_points_to_point_at() -> None:
    svg = curve_figure([Curve(name="loss", x=range(5000), y=list(np.arange(5000.0)))], axis="", along="step", label="x")
    assert svg.count('class="mark"') == 60
    assert len(svg) < 60_000


def test_a_spectrogram_is_brightest_where_the_tone_is() -> None:
    pixels = spectrogram_pixels({"tone": tone(1000, 0.5), "softer": tone(1000, 0.005)}, RATE)
    bright = pixels["tone"].astype(int).sum(axis=2)[:, 360]
    ((_, low), (_, height)) = frequency_marks(RATE)
    assert low < height
    assert 1 - np.argmax(bright) / len(bright) == pytest.approx(height, abs=0.02)
    assert bright.max() > pixels["softer"].astype(int).sum(axis=2)[:, 360].max()


def test_numbers_are_written_as_people_read_them() -> None:
    assert [number(-1.005, 1), number(1234.5), number(float("nan")), number(None)] == [
        "\N{MINUS SIGN}1.0",
        "1,234.50",
        "–",
        "–",
    ]
    assert [clock(0.0), clock(64.6), clock(3600.0)] == ["0:00", "1:05", "60:00"]
