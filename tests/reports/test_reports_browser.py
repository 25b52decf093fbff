"""The pages in a real browser, opened from disk: quiet, sortable, readable, and their players to the sample."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from cyclesep.reports.evaluation_report import write_evaluation_report
from tests.support.report_folders import HOSTILE, write_evaluation

TRACKS = [f"Song {number:02d}" for number in range(10)] + [HOSTILE]
# Renders what would sound, so that every sample can be looked at and no sound card is needed.
OFFLINE = """
window.AudioContext = class extends OfflineAudioContext {
  constructor() { super(1, 48000 * 3, 48000); window.offline = this; this.begun = false; }
  resume() { return this.begun ? super.resume() : Promise.resolve(); }
  startRendering() { this.begun = true; return super.startRendering(); }
};
"""
# Text whose contrast with what lies behind it is below 4.5, as WCAG 2 counts it.
FAINT_TEXT = """() => {
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b, a = 1] = numbers;
    return text.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => x / 255).map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const own = parse(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(element.parentElement));
  };
  const faint = [];
  let count = 0;
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || !element.checkVisibility() || element.closest("script, style, noscript")) continue;
    const style = getComputedStyle(element);
    const ground = behind(element);
    const ink = over(parse(element.closest("svg") ? style.fill : style.color), ground);
    const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
    count += 1;
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(`${element.tagName} ${element.textContent.slice(0, 40)}`);
  }
  return { count, faint };
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of eleven tracks, one of them named by an enemy and one silent, three of them to be heard."""
    folder = tmp_path_factory.mktemp("pages") / "evaluation"
    heard = [TRACKS[0], HOSTILE, TRACKS[2]]
    return Path(write_evaluation_report(write_evaluation(folder, TRACKS, silent=TRACKS[3:4], excerpts=heard)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report; at the end of the test, nothing may have been complained of or fetched."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(script: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda problem: complaints.append(str(problem)))
        page.on("request", lambda request: requests.append(request.url))
        if script:
            page.add_init_script(script)
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert {url for url in requests if url.startswith("file:")} == {page_file.as_uri()}


def column(page: Page, number: int) -> list[str]:
    return page.locator("#scores ~ .scroll tbody tr").evaluate_all(
        "(rows, number) => rows.map((row) => row.cells[number].textContent)", number
    )


def test_a_heading_sorts_by_number_and_back(opened: Callable[..., Page]) -> None:
    page = opened()
    heading = page.locator("#scores ~ .scroll th", has_text="SDR").first
    heading.get_by_role("button").click()
    down = [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(page, 2)]
    assert down == sorted(down, reverse=True)
    assert len(set(down)) == 6
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").press("Enter")
    assert [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(page, 2)] == down[::-1]


def test_a_track_without_a_value_stays_last_whichever_way_is_sorted(opened: Callable[..., Page]) -> None:
    page = opened()
    page.get_by_text("All tracks as a table").click()
    button = page.locator("#all-tracks th", has_text="SI-SDR").get_by_role("button")
    for _ in range(2):
        button.click()
        names = page.locator("#all-tracks tbody tr:visible th").all_text_contents()
        assert names[-2:] == [TRACKS[3]] * 2
        assert len(names) == 2 * len(TRACKS)


def test_a_point_tells_its_track_to_the_mouse_and_to_the_keyboard(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    tip = page.locator("#tip")
    mark = page.locator("#strips svg.marked:visible .mark").nth(3)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    pointed = tip.text_content()
    assert pointed in page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.ariaLabel)")
    # The same track under three systems, in both figures of each score.
    assert page.locator("#strips div:not([hidden]) .mark.linked").count() == 2 * 3
    page.locator("#strips svg.marked:visible .mark").first.focus()
    names = []
    for _ in range(3):
        names.append(str(tip.text_content()))
        page.keyboard.press("ArrowRight")
    assert [name.splitlines()[0] for name in names] == TRACKS[:3]
    assert all("mixture: SDR" in name for name in names)


def test_what_a_track_is_called_does_no_harm_and_is_shown_as_it_is(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.evaluate("window.harmed") is None
    shown = HOSTILE.replace("\x07", "\N{REPLACEMENT CHARACTER}")
    assert page.locator("#player-1").text_content() in (HOSTILE, shown)
    labels = page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.dataset.link)")
    assert shown in labels
    assert page.locator("main img[src=x]").count() == 0
    assert page.locator(".warning li").text_content() == "separator: Lost: its process was lost <b>3</b> times"


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_is_wider_than_the_window(opened: Callable[..., Page], width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    for details in page.locator("details > summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_its_ground(opened: Callable[..., Page], theme: str) -> None:
    page = opened(color_scheme=theme)
    for details in page.locator("details > summary").all():
        details.click()
    found = page.evaluate(FAINT_TEXT)
    assert found["count"] > 100
    assert found["faint"] == []


def test_the_theme_follows_the_system_until_one_is_chosen(opened: Callable[..., Page]) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    page, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    light_ground, dark_ground = page.evaluate(ground), dark.evaluate(ground)
    assert light_ground != dark_ground
    page.get_by_label("Theme").select_option("dark")
    assert page.evaluate(ground) == dark_ground
    page.reload()
    assert page.evaluate(ground) == dark_ground
    page.get_by_label("Theme").select_option("system")
    assert page.evaluate(ground) == light_ground


def test_landmarks_headings_and_names_are_there(opened: Callable[..., Page]) -> None:
    page = opened()
    assert [page.locator(name).count() for name in ("main", "header", "footer", "nav", "h1")] == [1] * 5
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt]), svg:not([aria-label])").count() == 0
    unnamed = "all => all.filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).length"
    assert page.locator("button, select, input").evaluate_all(unnamed) == 0
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def wait_past(page: Page, player: int, seconds: float) -> None:
    """Until a player is past a moment; the page forbids what `wait_for_function` does."""
    page.evaluate(
        """([number, seconds]) => new Promise((resolve, reject) => {
          const { player } = document.querySelectorAll(".player")[number];
          const began = performance.now();
          const look = () => {
            if (player.position() > seconds) resolve();
            else if (performance.now() > began + 60000) reject(new Error(`at ${player.position()} s for a minute`));
            else setTimeout(look, 20);
          };
          look();
        })""",
        [player, seconds],
    )


def test_a_player_plays_pauses_and_goes_on(opened: Callable[..., Page]) -> None:
    page = opened()
    # Looping, so that a busy machine does not miss a moment for good.
    page.evaluate("""document.querySelectorAll(".player").forEach(
        ({ player }) => player.setLoop({ on: true, from: 0, to: player.seconds }))""")
    player = page.locator(".player").first
    button = player.get_by_role("button", name="Play")
    button.click()
    wait_past(page, 0, 0.5)
    player.get_by_role("button", name="Pause").click()
    at = page.evaluate("document.querySelector('.player').player.position()")
    page.wait_for_timeout(150)
    assert page.evaluate("document.querySelector('.player').player.position()") == at
    assert float(player.locator(".position").input_value()) == pytest.approx(at, abs=0.26)
    button.click()
    wait_past(page, 0, at + 0.2)
    # Another player takes over.
    page.locator(".player").nth(1).get_by_role("button", name="Play").click()
    wait_past(page, 1, 0.1)
    assert player.get_by_role("button", name="Play").count() == 1


def test_a_change_of_what_sounds_has_no_gap_and_keeps_the_place_to_the_sample(opened: Callable[..., Page]) -> None:
    page = opened(script=OFFLINE)
    rendered, places = page.evaluate("""async () => {
      const element = document.querySelector(".player");
      const { player } = element;
      const places = [];
      await player.toggle();
      const hear = (name) => () => {
        const before = player.position();
        element.querySelector(`[data-signal="${name}"]`).click();
        places.push([offline.currentTime, before, player.position()]);
        offline.resume();
      };
      offline.suspend(1).then(hear("vocals.reference"));
      offline.suspend(2).then(hear("vocals.estimate"));
      const buffer = await offline.startRendering();
      return [[...buffer.getChannelData(0)], places];
    }""")
    sound = np.array(rendered)

    def part(start: float, stop: float, hertz: float) -> complex:
        """The amplitude and phase of a frequency, counted from the beginning."""
        time = np.arange(round(start * 48000), round(stop * 48000)) / 48000
        return complex(
            2 * np.mean(sound[round(start * 48000) : round(stop * 48000)] * np.exp(-2j * np.pi * hertz * time))
        )

    mixture, reference, estimate = part(0.5, 0.9, 500), part(1.1, 1.9, 500), part(2.1, 2.9, 1000)
    assert abs(mixture) == pytest.approx(0.5, rel=0.1)
    assert abs(reference) == pytest.approx(0.25, rel=0.1)
    assert abs(estimate) == pytest.approx(0.5, rel=0.1)
    # The reference is the mixture at half the level: a sample of 16 kHz would be 0.2 rad.
    assert np.angle(reference / mixture) == pytest.approx(0.0, abs=0.1)
    assert abs(part(2.1, 2.9, 500)) < 0.01
    # Never a quarter of a millisecond more than a half wave near zero.
    quiet = np.abs(sound[4800:]) < 0.02
    longest = max(map(len, "".join("q" if each else " " for each in quiet).split()))
    assert longest < 48000 * 0.00025 + 48000 * 0.25 / 500
    assert [before for _, before, _ in places] == [after for _, _, after in places]
    assert [before for _, before, _ in places] == pytest.approx([0.97, 1.97], abs=0.005)


def test_a_loop_goes_round_and_round_between_its_ends(opened: Callable[..., Page]) -> None:
    page = opened(script=OFFLINE)
    places = page.evaluate("""async () => {
      const { player } = document.querySelector(".player");
      player.seek(1.5);
      player.setLoop({ on: true, from: 1.25, to: 1.75 });
      await player.toggle();
      const places = [];
      for (const moment of [0.15, 0.5, 1.0, 2.5]) {
        offline.suspend(moment).then(() => { places.push(player.position()); offline.resume(); });
      }
      await offline.startRendering();
      return places;
    }""")
    expected = [1.25 + (0.25 + moment - 0.03) % 0.5 for moment in (0.15, 0.5, 1.0, 2.5)]
    assert places == pytest.approx(expected, abs=0.01)


def test_a_drag_over_a_spectrogram_loops_what_it_spans_and_a_click_seeks(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    picture = page.locator(".player .picture").first
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    assert box is not None
    x, y, width = box["x"], box["y"] + 20, box["width"]
    page.mouse.click(x + width * 0.5, y)
    state = "(({ loop, offset }) => ({ ...loop, offset }))(document.querySelector('.player').player)"
    assert page.evaluate(state)["offset"] == pytest.approx(2.0, abs=0.02)
    page.mouse.move(x + width * 0.75, y)
    page.mouse.down()
    page.mouse.move(x + width * 0.25, y, steps=4)
    page.mouse.up()
    found = page.evaluate(state)
    assert found["on"]
    assert [found["from"], found["to"], found["offset"]] == pytest.approx([1.0, 3.0, 1.0], abs=0.02)
    assert (
        page.locator(".player").first.get_by_role("button", name="Loop", exact=True).get_attribute("aria-pressed")
        == "true"
    )


def test_keys_choose_what_sounds_and_solo_lets_several_sound(opened: Callable[..., Page]) -> None:
    page = opened()
    player = page.locator(".player").first
    heard = "[...document.querySelector('.player').player.heard]"
    player.locator(".position").focus()
    for key, expected in {"3": "vocals.estimate", "2": "vocals.reference", "1": "mixture"}.items():
        page.keyboard.press(key)
        assert page.evaluate(heard) == [expected]
    page.keyboard.press("3")
    player.get_by_label("Target").select_option("accompaniment")
    assert page.evaluate(heard) == ["accompaniment.estimate"]
    assert player.get_by_role("button", name="Estimate of accompaniment").is_visible()
    player.get_by_role("button", name="Solo").click()
    player.get_by_role("button", name="Mixture").click()
    assert page.evaluate(heard) == ["accompaniment.estimate", "mixture"]


def test_without_javascript_tables_and_figures_are_there(opened: Callable[..., Page]) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("#scores ~ .scroll tbody tr").count() == 6
    assert page.locator("#strips svg:visible").count() == 2
