"""HTML reports in a browser, opened from disk: no errors, sorting, contrast, layout and sample-exact playback."""

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
# Renders the audio offline, so that every sample can be tested and no sound card is needed.
OFFLINE = """
window.AudioContext = class extends OfflineAudioContext {
  constructor() { super(1, 48000 * 3, 48000); window.offline = this; this.begun = false; }
  resume() { return this.begun ? super.resume() : Promise.resolve(); }
  startRendering() { this.begun = true; return super.startRendering(); }
};
"""
# Finds text whose contrast with its background is below 4.5 (WCAG 2).
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
    """Report of eleven tracks, one with a hostile name and one silent; three of them have excerpts."""
    folder = tmp_path_factory.mktemp("reports") / "evaluation"
    excerpts = [TRACKS[0], HOSTILE, TRACKS[2]]
    return Path(write_evaluation_report(write_evaluation(folder, TRACKS, silent=TRACKS[3:4], excerpts=excerpts)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Browser, page_file: Path) -> Iterator[Callable[..., Page]]:
    """Function that opens the report; afterwards, checks that there were no console messages and no requests."""
    messages: list[str] = []
    requests: list[str] = []
    contexts = []

    def open_page(script: str = "", **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        if script:
            page.add_init_script(script)
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert messages == []
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert {url for url in requests if url.startswith("file:")} == {page_file.as_uri()}


def column(page: Page, number: int) -> list[str]:
    return page.locator("#scores ~ .scroll tbody tr").evaluate_all(
        "(rows, number) => rows.map((row) => row.cells[number].textContent)", number
    )


def test_click_on_heading_sorts_in_both_orders(opened: Callable[..., Page]) -> None:
    page = opened()
    heading = page.locator("#scores ~ .scroll th", has_text="SDR").first
    heading.get_by_role("button").click()
    descending = [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(page, 2)]
    assert descending == sorted(descending, reverse=True)
    assert len(set(descending)) == 6
    assert heading.get_attribute("aria-sort") == "descending"
    heading.get_by_role("button").press("Enter")
    assert [float(text.replace("\N{MINUS SIGN}", "-")) for text in column(page, 2)] == descending[::-1]


def test_track_without_value_is_last_in_both_orders(opened: Callable[..., Page]) -> None:
    page = opened()
    page.get_by_text("All tracks as a table").click()
    button = page.locator("#all-tracks th", has_text="SI-SDR").get_by_role("button")
    for _ in range(2):
        button.click()
        names = page.locator("#all-tracks tbody tr:visible th").all_text_contents()
        assert names[-2:] == [TRACKS[3]] * 2
        assert len(names) == 2 * len(TRACKS)


def test_point_shows_its_track_on_hover_and_focus(opened: Callable[..., Page]) -> None:
    page = opened(viewport={"width": 1200, "height": 900})
    tip = page.locator("#tip")
    mark = page.locator("#strips svg.marked:visible .mark").nth(3)
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    hovered = tip.text_content()
    assert hovered in page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.ariaLabel)")
    # The same track in three systems, in both figures of the metric.
    assert page.locator("#strips div:not([hidden]) .mark.linked").count() == 2 * 3
    page.locator("#strips svg.marked:visible .mark").first.focus()
    names = []
    for _ in range(3):
        names.append(str(tip.text_content()))
        page.keyboard.press("ArrowRight")
    assert [name.splitlines()[0] for name in names] == TRACKS[:3]
    assert all("mixture: SDR" in name for name in names)


def test_hostile_track_name_is_escaped(opened: Callable[..., Page]) -> None:
    page = opened()
    assert page.evaluate("window.harmed") is None
    shown = HOSTILE.replace("\x07", "\N{REPLACEMENT CHARACTER}")
    assert page.locator("#player-1").text_content() in (HOSTILE, shown)
    labels = page.locator(".mark").evaluate_all("marks => marks.map((mark) => mark.dataset.link)")
    assert shown in labels
    assert page.locator("main img[src=x]").count() == 0
    assert page.locator(".warning li").text_content() == "separator: Lost: its process died <b>3</b> times"


@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_page_is_not_wider_than_the_window(opened: Callable[..., Page], width: int) -> None:
    page = opened(viewport={"width": width, "height": 800})
    for details in page.locator("details > summary").all():
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_sufficient_contrast(opened: Callable[..., Page], theme: str) -> None:
    page = opened(color_scheme=theme)
    for details in page.locator("details > summary").all():
        details.click()
    result = page.evaluate(FAINT_TEXT)
    assert result["count"] > 100
    assert result["faint"] == []


def test_theme_follows_the_system_until_selected(opened: Callable[..., Page]) -> None:
    background = "getComputedStyle(document.documentElement).backgroundColor"
    page, dark = opened(color_scheme="light"), opened(color_scheme="dark")
    light_background, dark_background = page.evaluate(background), dark.evaluate(background)
    assert light_background != dark_background
    page.get_by_label("Theme").select_option("dark")
    assert page.evaluate(background) == dark_background
    page.reload()
    assert page.evaluate(background) == dark_background
    page.get_by_label("Theme").select_option("system")
    assert page.evaluate(background) == light_background


def test_landmarks_headings_and_accessible_names(opened: Callable[..., Page]) -> None:
    page = opened()
    assert [page.locator(name).count() for name in ("main", "header", "footer", "nav", "h1")] == [1] * 5
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt]), svg:not([aria-label])").count() == 0
    unnamed = "all => all.filter((one) => !(one.textContent.trim() || one.ariaLabel || one.labels?.length)).length"
    assert page.locator("button, select, input").evaluate_all(unnamed) == 0
    ids = page.locator("[id]").evaluate_all("all => all.map((one) => one.id)")
    assert len(ids) == len(set(ids))


def wait_past(page: Page, player: int, seconds: float) -> None:
    """Wait until a player is past a position; the content security policy forbids `wait_for_function`."""
    page.evaluate(
        """([number, seconds]) => new Promise((resolve, reject) => {
          const { player } = document.querySelectorAll(".player")[number];
          const start = performance.now();
          const poll = () => {
            if (player.position() > seconds) resolve();
            else if (performance.now() > start + 60000) reject(new Error(`at ${player.position()} s for a minute`));
            else setTimeout(poll, 20);
          };
          poll();
        })""",
        [player, seconds],
    )


def test_player_plays_pauses_and_resumes(opened: Callable[..., Page]) -> None:
    page = opened()
    # Looping, so that a slow machine cannot miss a position.
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
    # Starting another player pauses the first one.
    page.locator(".player").nth(1).get_by_role("button", name="Play").click()
    wait_past(page, 1, 0.1)
    assert player.get_by_role("button", name="Play").count() == 1


def test_switching_signals_has_no_gap_and_keeps_the_position_to_the_sample(opened: Callable[..., Page]) -> None:
    page = opened(script=OFFLINE)
    rendered, positions = page.evaluate("""async () => {
      const element = document.querySelector(".player");
      const { player } = element;
      const positions = [];
      await player.toggle();
      const choose = (name) => () => {
        const before = player.position();
        element.querySelector(`[data-signal="${name}"]`).click();
        positions.push([offline.currentTime, before, player.position()]);
        offline.resume();
      };
      offline.suspend(1).then(choose("vocals.reference"));
      offline.suspend(2).then(choose("vocals.estimate"));
      const buffer = await offline.startRendering();
      return [[...buffer.getChannelData(0)], positions];
    }""")
    audio = np.array(rendered)

    def part(start: float, stop: float, hertz: float) -> complex:
        """Return amplitude and phase of a frequency, relative to the start."""
        time = np.arange(round(start * 48000), round(stop * 48000)) / 48000
        return complex(
            2 * np.mean(audio[round(start * 48000) : round(stop * 48000)] * np.exp(-2j * np.pi * hertz * time))
        )

    mixture, reference, estimate = part(0.5, 0.9, 500), part(1.1, 1.9, 500), part(2.1, 2.9, 1000)
    assert abs(mixture) == pytest.approx(0.5, rel=0.1)
    assert abs(reference) == pytest.approx(0.25, rel=0.1)
    assert abs(estimate) == pytest.approx(0.5, rel=0.1)
    # The reference is the mixture at half the amplitude; a shift by a sample at 16 kHz would be 0.2 rad.
    assert np.angle(reference / mixture) == pytest.approx(0.0, abs=0.1)
    assert abs(part(2.1, 2.9, 500)) < 0.01
    # Near zero for at most a quarter of a period plus 0.25 ms.
    quiet = np.abs(audio[4800:]) < 0.02
    longest = max(map(len, "".join("q" if each else " " for each in quiet).split()))
    assert longest < 48000 * 0.00025 + 48000 * 0.25 / 500
    assert [before for _, before, _ in positions] == [after for _, _, after in positions]
    assert [before for _, before, _ in positions] == pytest.approx([0.97, 1.97], abs=0.005)


def test_loop_repeats_between_its_bounds(opened: Callable[..., Page]) -> None:
    page = opened(script=OFFLINE)
    positions = page.evaluate("""async () => {
      const { player } = document.querySelector(".player");
      player.seek(1.5);
      player.setLoop({ on: true, from: 1.25, to: 1.75 });
      await player.toggle();
      const positions = [];
      for (const moment of [0.15, 0.5, 1.0, 2.5]) {
        offline.suspend(moment).then(() => { positions.push(player.position()); offline.resume(); });
      }
      await offline.startRendering();
      return positions;
    }""")
    expected = [1.25 + (0.25 + moment - 0.03) % 0.5 for moment in (0.15, 0.5, 1.0, 2.5)]
    assert positions == pytest.approx(expected, abs=0.01)


def test_drag_over_a_spectrogram_loops_and_click_seeks(opened: Callable[..., Page]) -> None:
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
    loop = page.evaluate(state)
    assert loop["on"]
    assert [loop["from"], loop["to"], loop["offset"]] == pytest.approx([1.0, 3.0, 1.0], abs=0.02)
    assert (
        page.locator(".player").first.get_by_role("button", name="Loop", exact=True).get_attribute("aria-pressed")
        == "true"
    )


def test_keys_select_signals_and_solo_off_plays_several(opened: Callable[..., Page]) -> None:
    page = opened()
    player = page.locator(".player").first
    audible = "[...document.querySelector('.player').player.audible]"
    player.locator(".position").focus()
    for key, expected in {"3": "vocals.estimate", "2": "vocals.reference", "1": "mixture"}.items():
        page.keyboard.press(key)
        assert page.evaluate(audible) == [expected]
    page.keyboard.press("3")
    player.get_by_label("Target").select_option("accompaniment")
    assert page.evaluate(audible) == ["accompaniment.estimate"]
    assert player.get_by_role("button", name="Estimate of accompaniment").is_visible()
    player.get_by_role("button", name="Solo").click()
    player.get_by_role("button", name="Mixture").click()
    assert page.evaluate(audible) == ["accompaniment.estimate", "mixture"]


def test_tables_and_figures_without_javascript(opened: Callable[..., Page]) -> None:
    page = opened(java_script_enabled=False)
    assert page.locator("#scores ~ .scroll tbody tr").count() == 6
    assert page.locator("#strips svg:visible").count() == 2
