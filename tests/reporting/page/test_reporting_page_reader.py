"""What a reader does with the report's page: sort, search, filter, brush, open a candidate, by mouse and by keyboard."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import yaml
from browser import opened
from page_expected import SIZE, filter_range, front_of, rows_of, with_fitness

from lightning_evo.archive import Archive

LR = "model.init_args.lr"

# -- leaderboard -------------------------------------------------------------------------------------------------------


def test_the_leaderboard_begins_with_the_best(page, ordinary):
    front = front_of(ordinary)
    first = page.rows()[: len(front)]
    assert sorted(first) == front
    values = {row["id"]: row["val_acc"] for row in with_fitness(rows_of(ordinary), "completed")}
    assert [values[id] for id in first] == sorted((values[id] for id in first), reverse=True)


def test_sorting_by_a_column_orders_its_rows_both_ways_and_back(page, ordinary):
    page.page.select_option("#pager select", "250")
    values = {row["id"]: row[LR] for row in rows_of(ordinary)}
    before = page.rows()
    page.page.click("#table th button:text-is('lr')")
    assert [values[id] for id in page.rows()] == sorted(values.values())
    assert page.text("th[aria-sort=ascending]").startswith("lr")
    page.page.click("#table th button[data-sort$='.lr']")
    assert [values[id] for id in page.rows()] == sorted(values.values(), reverse=True)
    page.page.click("#table th button[data-sort$='.lr']")
    assert page.rows() == before


def test_missing_values_come_last_whichever_way_is_sorted(page, ordinary):
    page.page.select_option("#pager select", "250")
    missing = {row["id"] for row in rows_of(ordinary) if row.get("val_acc") is None}
    assert missing
    for _ in range(2):
        page.page.click("#table th button[data-sort='fitness:0']")
        assert set(page.rows()[-len(missing) :]) == missing


def test_pages_hold_every_candidate_once(page):
    seen = page.rows()
    while page.page.locator("[data-page='Next page']").is_enabled():
        page.page.click("[data-page='Next page']")
        seen += page.rows()
    assert sorted(seen) == list(range(SIZE))


def test_columns_can_be_chosen_and_the_table_saved_as_csv(page, ordinary):
    page.page.click("#table-controls button:has-text('Columns')")
    page.page.check("#columns-panel input[value='cost:seconds']")
    page.page.uncheck("#columns-panel input[value='generation']")
    assert page.page.locator("#table th:has-text('seconds')").count() == 1
    assert page.page.locator("#table th:has-text('generation')").count() == 0
    with page.page.expect_download() as saved:
        page.page.click("text=Save CSV")
    text = Path(saved.value.path()).read_text()
    table = list(csv.DictReader(io.StringIO(text)))
    seconds = {row["id"]: row.get("cost/seconds") for row in rows_of(ordinary)}
    assert len(table) == SIZE
    for row in table:
        known = seconds[int(row["id"])]
        assert row["seconds"] == "" if known is None else float(row["seconds"]) == pytest.approx(known, rel=1e-4)
    page.page.click("text=Copy CSV")
    page.waits("document.getElementById('announcement').textContent === 'The table copied'")
    assert page("navigator.clipboard.readText()").replace("\r\n", "\n") == text


# -- filters -----------------------------------------------------------------------------------------------------------


def test_search_status_and_range_filters_narrow_the_rows_together(page, ordinary):
    page.page.select_option("#pager select", "250")
    rows = rows_of(ordinary)
    page.page.click("#statuses button:has-text('completed')")
    filter_range(page, "lr", "1e-3", "1e-2")
    expected = {row["id"] for row in rows if row["status"] == "completed" and 1e-3 <= row[LR] <= 1e-2}
    assert 0 < len(expected) < len(rows)
    assert set(page.rows()) == expected
    assert page.text("#shown") == f"{len(expected)} of {SIZE} candidates"
    one = min(expected)
    page.page.fill("#search", f"#{one}")
    page.waits("document.querySelectorAll('#table [data-row]').length === 1")
    assert page.rows() == [one]
    page.page.click("#clear")
    assert len(page.rows()) == SIZE
    assert page.page.input_value("#search") == ""


def test_filters_by_origin_and_by_category(page, ordinary):
    page.page.select_option("#pager select", "250")
    rows = rows_of(ordinary)
    page.page.click("#more")
    origin = rows[0]["origin"]
    page.page.click(f"#origins button:has-text('{origin}')")
    assert set(page.rows()) == {row["id"] for row in rows if row["origin"] == origin}
    gene, label, raw = page(
        "(({ path, choices, raw }) => [path, choices[0], raw[0]])(state.run.genes.find(({ kind }) => kind === 'category'))"
    )
    page.page.select_option("#range-column", value=f"gene:{gene}")
    page.page.locator("#range-inputs label", has_text=label).first.locator("input").check()
    page.page.click("#range-form button")
    value = next(row[gene] for row in rows if row.get(gene) is not None and raw == row[gene])
    expected = {row["id"] for row in rows if row["origin"] == origin and row.get(gene) == value}
    assert 0 < len(expected) < len(rows)
    assert set(page.rows()) == expected


def test_a_filter_changes_every_plot(page, ordinary):
    page.page.click("#statuses button:has-text('stopped')")
    page.draw()
    rows = rows_of(ordinary)
    stopped = [row for row in rows if row["status"] == "stopped"]
    assert page.points("progress", "stopped") == len(with_fitness(rows, "stopped"))
    assert page.points("progress", "completed") == 0
    assert page("pointsOf('slots')") == len(stopped)
    assert page.points("curves", "stopped early") == len(stopped)
    assert page.caption("genes").startswith(f"{len(with_fitness(rows, 'stopped'))} candidate")
    assert page("idsOf('front', () => true)")
    assert page.points("front", "Pareto front") == 0


def test_a_filter_that_nothing_passes_leaves_a_page_that_says_so(page):
    page.page.fill("#search", "no such thing")
    page.waits("document.querySelector('#table tbody').textContent.includes('No candidates match')")
    page.draw()
    assert page.text("#shown").startswith("0 of")


def test_a_range_that_is_no_number_is_refused_in_words(page):
    filter_range(page, "lr", "much", "")
    assert "numbers" in page("document.getElementById('announcement').textContent")
    assert page("state.ranges.size") == 0


def test_a_box_drawn_over_an_axis_filters_everything(page, ordinary):
    page.draw("genes")
    axis = page("dimensions.findIndex(({ column }) => column.label === 'lr')")
    (x, low), (_, high) = (page(f"onScreen('genes', {axis}, {at})") for at in (0.35, 0.65))
    mouse = page.page.mouse
    mouse.move(x - 15, low)
    mouse.down()
    mouse.move(x + 5, high, steps=5)
    mouse.move(x + 15, high, steps=3)
    mouse.up()
    page.waits("state.ranges.size === 1")
    [[key, [[least, most]]]] = page("[...state.ranges]")
    assert key == f"gene:{LR}"
    inside = [row["id"] for row in rows_of(ordinary) if least <= row[LR] <= most]
    assert 0 < len(inside) < SIZE
    assert page.text("#shown").startswith(f"{len(inside)} of")
    page.page.click("#chips .chip >> nth=0")
    assert page.text("#shown") == f"{SIZE} candidates"


# -- one candidate -----------------------------------------------------------------------------------------------------


def test_a_click_on_a_point_opens_its_candidate(page):
    page.draw("progress")
    row, x, y = page("lonelyPoint('progress', 'completed')")
    page.page.mouse.move(x - 3, y - 3)
    page.page.mouse.move(x, y, steps=3)
    page.waits("!document.getElementById('tooltip').hidden")
    assert f"#{row}" in page.text("#tooltip")
    page.page.mouse.click(x, y)
    page.page.wait_for_selector("#details h2")
    assert page.text("#details h2").startswith(f"#{row} ")
    assert page("location.hash") == f"#candidate={row}"


def test_a_link_opens_a_candidate_with_its_config(browser, ordinary_page, ordinary):
    with Archive(ordinary) as archive:
        row = next(row for row in archive.candidates() if row["parents"] and row["status"] == "completed")
    with opened(browser, f"{ordinary_page.as_uri()}#candidate={row['id']}") as seen:
        config = yaml.safe_load(seen("document.querySelector('#details pre[aria-label=Config]').textContent"))
        base = seen("state.run.raw.config")
        assert set(base) <= set(config)
        genes = [column for column in row if column.split(".")[0] in ("model", "data", "trainer")]
        assert genes
        for gene in genes:
            value = config
            for part in gene.split("."):
                value = value[part]
            expected = row[gene]
            assert value == (pytest.approx(expected, rel=1e-4) if isinstance(expected, float) else expected)
        marked = seen.page.locator("#details mark").all_inner_texts()
        assert {gene.split(".")[-1] for gene in genes} <= {line.split(":")[0] for line in marked}
        assert not any(line.startswith("max_epochs") for line in marked)
        shown = seen("[...document.querySelectorAll('#details [data-candidate]')].map((a) => +a.dataset.candidate)")
        assert set(row["parents"]) <= set(shown)


def test_following_a_parent_goes_there_and_escape_closes(page, ordinary):
    child = next(row for row in rows_of(ordinary) if row["parents"])
    page(f"openCandidate({child['id']})")
    page.page.click(f"#details [data-candidate='{child['parents'][0]}'] >> nth=0")
    assert page.text("#details h2").startswith(f"#{child['parents'][0]} ")
    page.page.keyboard.press("Escape")
    assert page.page.locator("#details").is_hidden()
    assert page("location.hash") == ""


def test_the_lineage_shows_the_family_of_an_open_candidate(page, ordinary):
    rows = rows_of(ordinary)
    child = next(row for row in reversed(rows) if row["parents"])
    page(f"openCandidate({child['id']})")
    page.page.click("text=Show family")
    page.draw("lineage")
    parents = {row["id"]: row["parents"] for row in rows}
    ancestors: set[int] = set()
    waiting = [child["id"]]
    while waiting:
        ancestors.add(one := waiting.pop())
        waiting += [parent for parent in parents[one] if parent not in ancestors]
    drawn = set(page("idsOf('lineage', (trace) => Array.isArray(trace.marker?.symbol))"))
    assert ancestors <= drawn
    edges = page.points("lineage", "parent only") + page.points("lineage", "weights inherited")
    assert edges >= 3 * (len(ancestors) - 1 - sum(not parents[one] for one in ancestors))


def test_everything_is_reached_with_the_keyboard(page):
    press, focused = page.page.keyboard.press, "document.activeElement"
    press("Tab")
    assert page(f"{focused}.className") == "skip"
    press("Enter")
    assert page(f"{focused}.id") == "leaderboard"
    for _ in range(60):
        press("Tab")
        if page(f"{focused}.dataset.candidate !== undefined"):
            break
    assert int(page(f"{focused}.dataset.candidate")) == page.rows()[0]
    press("ArrowDown")
    second = page.rows()[1]
    assert int(page(f"{focused}.dataset.candidate")) == second
    assert page(f"getComputedStyle({focused}).outlineStyle") == "solid"
    press("Enter")
    assert page(f"{focused}.id") == "details-title"
    for _ in range(4):
        press("Tab")
        assert page(f"document.getElementById('details').contains({focused})")
    press("Escape")
    assert int(page(f"{focused}.dataset.candidate")) == second


def test_controls_have_names(page):
    page.page.click("#more")
    page("openCandidate(1)")
    assert page("nameless()") == []
