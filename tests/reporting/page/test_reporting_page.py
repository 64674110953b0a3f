"""The report's page in a browser: every plot is drawn, on every form, and nothing of the users' texts is executed."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest
from browser import DARK, DESKTOP, PHONE, another, opened
from page_expected import SIZE, front_of, rows_of, with_fitness
from PIL import Image
from reporting_archives import FEATURED, HOSTILE, STRANGE_GENE, empty, synthetic, unfinished

from lightning_evo.archive import Archive
from lightning_evo.reporting.page import report

# -- what is drawn -----------------------------------------------------------------------------------------------------


def test_every_plot_shows_as_many_as_the_archive_holds(page, ordinary):
    rows = rows_of(ordinary)
    page.draw()
    assert page("shownPlots().filter(isEmpty)") == []
    completed, stopped = with_fitness(rows, "completed"), with_fitness(rows, "stopped")
    assert page.points("progress", "completed") == len(completed)
    assert page.points("progress", "stopped") == len(stopped) > 0
    assert page("pointsOf('slots')") == sum(row["ended"] is not None and row["started"] is not None for row in rows)
    assert sorted(page("idsOf('front', (trace) => trace.name === 'Pareto front')")) == front_of(ordinary)
    with Archive(ordinary) as archive:
        curves = {row["id"] for row in archive.curves()}
    assert set(page("idsOf('curves', (trace) => trace.mode === 'lines')")) == curves
    assert page.points("curves", "stopped early") == sum(row["status"] == "stopped" for row in rows)
    assert page("tracesOf('importance')[0].y.length") == page("state.run.genes.length")
    known = {row["id"] for row in completed + stopped}
    assert set(page("idsOf('genes', (trace) => trace.mode === 'lines')")) == known


def test_drawn_points_can_be_seen(page):
    page.draw()
    for plot in ("progress", "front", "curves", "lineage", "slots", "predicted", "genes", "importance"):
        inside = f"[data-plot={plot}] .plot-container"
        assert page.page.locator(f"{inside} .trace path, {inside} .point path").count() > 0, plot
        assert page(f"document.querySelector('{inside} .main-svg').getBoundingClientRect().height") > 100


def test_each_plot_says_in_words_what_it_shows(page, ordinary):
    page.draw()
    best = max(with_fitness(rows_of(ordinary), "completed"), key=lambda row: row["val_acc"])
    assert f"candidate #{best['id']}" in page.caption("progress")
    for plot in page("shownPlots()"):
        label = f"plots.get('{plot}').place.getAttribute('aria-labelledby')"
        assert len(page(f"document.getElementById({label}).textContent")) > 20, plot


def test_three_objectives_are_drawn_in_space(browser, strange_page, strange):
    with opened(browser, strange_page) as seen:
        seen.draw("front")
        seen.page.select_option("[data-choice='front.as'] select", "3")
        seen.waits("tracesOf('front')[0].type === 'scatter3d' && !plots.get('front').stale && !renderScheduled")
        rows = rows_of(strange)
        assert seen("pointsOf('front')") == len(with_fitness(rows, "completed") + with_fitness(rows, "stopped"))
        assert seen.page.locator("[data-plot=front] canvas").count() > 0
        assert sorted(seen("idsOf('front', (trace) => trace.name === 'Pareto front')")) == front_of(strange)


def test_without_webgl_the_page_says_what_it_cannot_draw(browser, strange_page):
    with another(browser, "--disable-3d-apis") as without, opened(without, strange_page) as seen:
        seen.draw("front")
        seen.page.select_option("[data-choice='front.as'] select", "3")
        seen.waits("plots.get('front').place.textContent.includes('WebGL')")
        seen.draw("genes")
        assert seen.page.locator("[data-plot=genes] .trace path").count() > 0


def test_a_plot_that_fails_says_so_and_leaves_the_others_alone(browser, ordinary_page):
    with opened(browser, ordinary_page, strict=False) as seen:
        seen("plots.get('front').make = () => { throw new Error('no front today'); }; null")
        seen.draw()
        assert seen.text("[data-plot=front]") == "This plot could not be drawn: no front today"
        assert seen("shownPlots().filter(isEmpty)") == ["front"]
        assert any("no front today" in error for error in seen.errors)


# -- forms -------------------------------------------------------------------------------------------------------------


def test_dark_mode_follows_the_system_and_the_switch(browser, ordinary_page):
    with opened(browser, ordinary_page, DARK) as seen:
        seen.draw("progress")
        theme = "document.documentElement.dataset.theme"
        assert seen(theme) == "dark"
        before = seen("plots.get('progress').place._fullLayout.font.color")
        seen.page.click("#theme")
        assert seen(theme) == "light"
        seen.waits(f"plots.get('progress').place._fullLayout.font.color !== '{before}'")
        seen.page.emulate_media(color_scheme="light")
        seen.page.click("#theme")
        assert seen(theme) == "dark"
        seen.page.click("#theme")
        assert seen(theme) == "light"


@pytest.mark.parametrize(
    ("form", "width", "light"),
    [(DESKTOP, 1440, True), (PHONE, 720, True), (DARK, 1440, False)],
    ids=["desktop", "phone", "dark"],
)
def test_a_picture_of_the_whole_page_is_as_wide_as_the_screen_and_in_its_colors(
    browser, ordinary_page, tmp_path, form, width, light
):
    with opened(browser, ordinary_page, form) as seen:
        seen.draw()
        seen.page.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.width == width
        assert picture.height > 3 * form["viewport"]["height"]
        colors = sorted(picture.convert("RGB").getcolors(picture.width * picture.height), reverse=True)
    assert (sum(colors[0][1]) > 3 * 200) == light  # that of most of the page
    assert len(colors) > 1000  # plots, not an empty ground


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_their_ground(browser, ordinary_page, theme):
    with opened(browser, ordinary_page, {**DESKTOP, "color_scheme": theme}) as seen:
        names = ("card", "back", "text", "muted", "accent", "failed", "best")
        colors = {name: seen(f"themeColor('{name}')") for name in names}
    for name in ("text", "muted", "accent"):
        for ground in ("card", "back"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    for name in ("failed", "best"):
        assert contrast(colors[name], colors["card"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """The ratio of contrast as WCAG 2 defines it, of colors ``#rrggbb``."""

    def luminance(color: str) -> float:
        parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_phone_shows_one_column_without_sideways_scrolling(browser, strange_page):
    with opened(browser, strange_page, PHONE) as seen:
        seen.draw()
        assert seen("document.documentElement.scrollWidth") <= 360
        assert all(left >= 0 and right <= 360 for left, right in seen("cardEdges()"))
        assert seen("tooSmall(36)") == []
        seen.page.tap("#table [data-candidate] >> nth=0")
        seen.page.wait_for_selector("#details h2")
        assert seen("document.getElementById('details').getBoundingClientRect().width") <= 360
        assert seen("document.documentElement.scrollWidth") <= 360


def test_printed_it_has_all_plots_and_no_controls(page):
    page.page.emulate_media(media="print")
    page("dispatchEvent(new Event('beforeprint')) && null")
    page.waits("[...plots.values()].every(({ place, drawn }) => drawn > 0 || !place.offsetParent)")
    assert page.page.locator("nav").is_hidden()
    assert page.page.locator("#pager").is_hidden()


def test_reduced_motion_is_respected(browser, ordinary_page):
    with opened(browser, ordinary_page, {**DESKTOP, "reduced_motion": "reduce"}) as seen:
        seen("openCandidate(1)")
        assert seen("getComputedStyle(document.getElementById('details')).animationName") == "none"
        assert seen("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


# -- what else a run can be --------------------------------------------------------------------------------------------


def test_markup_in_names_genes_and_errors_is_shown_and_never_executed(browser, strange_page):
    with opened(browser, strange_page) as seen:
        assert seen.text("h1") == HOSTILE
        seen.draw()
        for id in range(FEATURED):
            seen(f"openCandidate({id})")
        assert seen.text("#details h2").startswith(f"#{FEATURED - 1} ")
        seen("showEveryTooltip()")
        for which in ("best", "all", "family"):
            seen(f"state.choices['lineage.who'] = '{which}'; invalidate('lineage')")
            seen.draw("lineage")
        seen("filters.scrollIntoView() || setRange('gene:" + STRANGE_GENE.replace("'", "\\'") + "', [[0, 5]])")
        assert seen("window.hacked") is None
        assert seen.page.locator("img, main script, aside script").count() == 0
        assert STRANGE_GENE.removeprefix("model.init_args.") in seen("document.getElementById('table').textContent")
        assert "</script><script>window.hacked=1</script>" in seen.text("#failures-list")
        texts = "[...document.querySelectorAll('[data-plot=genes] text')].map((each) => each.textContent).join('|')"
        assert "<img src=x" in seen(texts)


def test_a_fitness_that_is_no_number_is_told_and_not_drawn(browser, strange_page):
    with opened(browser, strange_page) as seen:
        seen.draw("progress")
        assert "1 candidate without a finite val_acc" in seen.caption("progress")
        seen("openCandidate(5)")
        assert "not finite" in seen.text("#details")


def test_failures_are_told_once_each_with_their_candidates(browser, place):
    with opened(browser, report([unfinished(place / "unfinished")], place / "unfinished.html")) as seen:
        assert seen.page.locator("#failures-list .error").count() == 1
        assert seen.page.locator("#failures-list [data-candidate]").count() == 2
        seen.draw()
        assert seen("isEmpty('front') && isEmpty('genes') && isEmpty('curves')")


def test_an_empty_run_gives_a_page_that_says_so(browser, place):
    with opened(browser, report([empty(place / "empty")], place / "empty.html")) as seen:
        seen.draw()
        assert "No candidates yet" in seen.text("#table")
        assert seen("shownPlots().every(isEmpty)")


def test_several_runs_are_compared_and_each_can_be_looked_at(browser, ordinary, place):
    other = synthetic(place / "other", 40, seed=2)
    with opened(browser, report([ordinary, other], place / "two.html")) as seen:
        seen.draw("compared")
        assert seen("tracesOf('compared').map(({ name }) => name)") == ["ordinary", "other"]
        best = [max(row["val_acc"] for row in with_fitness(rows_of(run), "completed")) for run in (ordinary, other)]
        assert seen("tracesOf('compared').map(({ y }) => y.at(-1))") == pytest.approx(best, abs=1e-4)
        assert seen.page.locator("#compared-table tbody tr").count() == 2
        assert seen.text("#shown") == f"{SIZE} candidates"
        seen.page.select_option("#run", "1")
        assert seen.text("#shown") == "40 candidates"
        seen("openCandidate(7)")
        assert seen("location.hash") == "#run=2&candidate=7"


# -- many candidates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The page of twenty thousand candidates."""
    place = tmp_path_factory.mktemp("many")
    return report([synthetic(place / "many", 20_000, seed=3, objectives=3)], place / "many.html")


@pytest.mark.slow
def test_a_page_of_twenty_thousand_candidates_stays_below_eight_megabytes(many):
    assert many.stat().st_size < 8e6
    data = re.search(r'<script [^>]*id="data"[^>]*>([^<]+)<', many.read_text())
    held = json.loads(gzip.decompress(base64.b64decode(data[1])))
    assert len(held["runs"][0]["candidates"]["id"]) == 20_000


@pytest.mark.slow
def test_twenty_thousand_candidates_can_be_read(browser, many):
    with opened(browser, many) as seen:
        seen.draw()
        assert seen("document.querySelectorAll('*').length") < 40_000
        assert "points are drawn" in seen.caption("progress")
        seen.page.click("[data-page='Last page']")
        assert len(seen.rows()) == 25
        assert seen("pointsOf('slots')") < 4_000
        assert "Neighboring bars are merged" in seen.caption("slots")
        seen("Plotly.relayout(plots.get('slots').place, { 'xaxis.range[0]': 0, 'xaxis.range[1]': 0.02 }) && null")
        seen.draw("slots")
        assert "Neighboring" not in seen.caption("slots")
        assert seen("tracesOf('slots').flatMap(({ customdata }) => customdata).every((row) => typeof row === 'number')")
        seen.page.fill("#search", "#19999")
        seen.waits("document.querySelectorAll('#table [data-row]').length === 1")
        assert seen.rows() == [19_999]
