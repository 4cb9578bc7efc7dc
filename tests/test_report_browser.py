"""The report in a real browser: hostile texts stay texts; filters, search, paging and keyboard work."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judgetrace.refining.outcome import Outcome
from judgetrace.storage import Folder
from tests.agreement_runs import write_agreement
from tests.chromium import PHONE, find_chromium, open_chromium
from tests.report_runs import make_row, make_table, write_refinement, write_trace_run, write_training_run
from tests.test_refining_outcome import ORIGINAL, WON

pytestmark = [
    pytest.mark.served,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium and chromedriver here (Debian: chromium-driver)"),
]

ATTACK = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
HOSTILE = {
    "script": ATTACK,
    "closing": "</script></script><script>document.title='owned'</script><!--",
    "template": "{{ 7 * 7 }} {% raw %} ${7*7}",
    "rtl": "\u202eevil \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\u202c",
    "control": "a\x00b\x07c\x1b[31m",
    "long": "word " * 20_000,
    "unbroken": "x" * 5_000,
}
NUM_PLAIN = 400
RATERS = ("untuned", "tuned <b>well</b>", "tuned-refined")
HOSTILE_GUIDELINE = f"Rate 1, 2 or 3.\n{ATTACK}\n{'y' * 3_000}\n"


def folder_of(root: Path, name: str) -> Folder:
    return Folder(str(root / name))


def make_hostile_outcome() -> Outcome:
    return replace(WON, notes=[ATTACK])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    from jobs.render_report import main

    folder = tmp_path_factory.mktemp("report")
    run = folder_of(folder, "traces-<b>run")
    draw = random.Random(0)
    rows = [make_row(f"hostile-{name}", {"text": text}, "3", ["1", "3"], text) for name, text in HOSTILE.items()]
    # Half a surrogate pair: JSON can escape it, and fields are JSON.
    rows.append(
        make_row("hostile-surrogate", {"text": "half \ud800 pair", ATTACK: ATTACK}, ATTACK, [None, ATTACK], ATTACK)
    )
    rows += [
        make_row(f"plain-{n:03d}", {"text": f"an item {n} that draws may miss"}, "5",
                 ["1"] * 8 if n % 4 == 0 else ["2", "5"], f"reason {n}", split=draw.choice(["train", "test"]))
        for n in range(NUM_PLAIN)
    ]  # fmt: skip
    write_trace_run(run, [make_table(rows)], engine="tests.scripted_engine:ScriptedEngine")
    rationale = {"item_id": ["hostile-script"], "annotator_id": [ATTACK], "label": ["3"], "rationale": [ATTACK]}
    pq.write_table(pa.table(rationale), folder / "rationales.parquet")
    write_refinement(folder_of(folder, "refine"), make_hostile_outcome(), ORIGINAL.text, HOSTILE_GUIDELINE)
    training = folder_of(folder, "train-<b>run")
    write_training_run(training)
    config = folder / "report.toml"
    config.write_text(
        f"output = '{folder}'\ntitle = 'A <b>title</b>'\ntraces = ['{run.url}']\n"
        f"rationales.paths = ['{folder}/rationales.parquet']\n"
        f"agreement = '{write_agreement(folder / 'agreement', RATERS)}'\n"
        f"refinement = '{folder}/refine'\ntraining = ['{training.url}']\n"
    )
    assert main([str(config)]) == 0
    return (folder / "report.html").as_uri()


FAINT = """
const read = text => text.match(/[\\d.]+/g).map(Number);
const line = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const light = rgb => [0.2126, 0.7152, 0.0722].reduce((sum, share, n) => sum + share * line(rgb[n] / 255), 0);
const behind = node => {
  const [r, g, b, share = 1] = read(getComputedStyle(node).backgroundColor);
  if (share === 1) return [r, g, b];
  const below = behind(node.parentElement);
  return [r, g, b].map((c, n) => share * c + (1 - share) * below[n]);
};
return [...document.querySelectorAll("#guideline ins, #guideline del, .matrix td, .matrix th, td small, .note")]
  .filter(node => node.textContent.trim() && node.checkVisibility())
  .map(node => [node, light(read(getComputedStyle(node).color)), light(behind(node))])
  .filter(([, ink, paper]) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05) < 4.5)
  .map(([node]) => `${node.tagName} ${node.className}: ${node.textContent.slice(0, 20)}`);
"""
"""What stands out from what is behind it by less than 4.5 to 1. Source: WCAG 2.2, contrast ratio, 1.4.3."""


def wait(browser: Any, script: str, seconds: float = 20) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script(f"return {script}"))


def open_page(browser: Any, page: str) -> None:
    browser.get(page)
    wait(browser, "document.documentElement.dataset.ready")


def status(browser: Any) -> str:
    return str(browser.execute_script("return document.getElementById('status').textContent"))


def read_text(browser: Any, selector: str) -> str:
    return str(browser.execute_script("return document.querySelector(arguments[0]).textContent", selector))


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def search(browser: Any, text: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    box = browser.find_element(By.ID, "query")
    box.clear()
    box.send_keys(text, Keys.ENTER)


@pytest.mark.parametrize("name", [*HOSTILE, "surrogate"])
def test_a_hostile_text_is_shown_as_it_is_and_runs_nothing(browser: Any, page: str, name: str) -> None:
    open_page(browser, page)
    search(browser, f"hostile-{name}")
    wait(browser, "document.getElementById('status').textContent.startsWith('Units 1\u20131 of 1 ')")
    shown = browser.execute_script("return document.querySelector('.unit .text').textContent.toWellFormed()")
    expected = HOSTILE.get(name, "half \ufffd pair")
    assert shown == expected[:20_000]
    assert browser.title == "A <b>title</b>"
    assert not browser.execute_script(
        "return document.querySelectorAll('#units script, #units img, #units b b').length"
    )
    errors = [entry for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
    assert errors == []


def test_hostile_names_outside_the_trace_browser_are_texts_too(browser: Any, page: str) -> None:
    open_page(browser, page)
    assert not browser.execute_script(
        "return document.querySelectorAll('main img, main b:not(.about b), h1 b, svg script').length"
    )
    for section, text in (("training", "train-<b>run"), ("confusion", RATERS[1]), ("slices", RATERS[1])):
        assert text in read_text(browser, f"#{section}"), section
    assert "traces-<b>run (simulated)" in browser.execute_script("return document.body.textContent")
    assert ATTACK in browser.execute_script("return document.getElementById('acceptance').textContent")
    assert browser.execute_script("return document.querySelectorAll('.badge').length")


def test_headline_diff_matrices_and_curves_are_there(browser: Any, page: str) -> None:
    open_page(browser, page)
    for pair in ("untuned → tuned <b>well</b>", "untuned → tuned-refined", "Human ceiling"):
        assert pair in read_text(browser, "#agreement")
    assert ATTACK in read_text(browser, "#guideline .notes")
    lines = browser.execute_script("return [...document.querySelectorAll('#guideline ins')].map(l => l.textContent)")
    assert [line.removeprefix("+ added: ") for line in lines] == HOSTILE_GUIDELINE.splitlines()[1:]
    counts = browser.execute_script(
        "return ['#confusion .matrix', '#training svg'].map(s => document.querySelectorAll(s).length)"
    )
    assert counts == [len(RATERS) + 1, 4]


def test_the_policy_stops_a_script_that_gets_in_all_the_same(browser: Any, page: str) -> None:
    open_page(browser, page)
    outcome = browser.execute_script(
        "try { document.body.innerHTML = '<img src=x onerror=alert(1)>'; return 'let in' } catch (e) { return e.name }"
    )
    assert outcome == "TypeError"
    browser.execute_script(
        "const s = document.createElement('style'); s.textContent = 'body{display:none}'; document.head.append(s)"
    )
    assert browser.execute_script("return getComputedStyle(document.body).display") == "block"
    browser.get_log("browser")


def test_filters_count_what_is_there(browser: Any, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    open_page(browser, page)
    Select(browser.find_element(By.ID, "filter-outcome")).select_by_visible_text("exhausted (100)")
    wait(browser, "document.getElementById('status').textContent.includes('of 100 (408 in all)')")
    browser.find_element(By.ID, "filter-noise").click()
    wait(browser, "document.getElementById('status').textContent.includes('of 100 ')")
    browser.find_element(By.ID, "clear").click()
    wait(browser, "document.getElementById('status').textContent === 'Units 1\u201320 of 408'")
    browser.find_element(By.ID, "filter-reasons").click()
    wait(browser, "document.getElementById('status').textContent.startsWith('Units 1\u20131 of 1 ')")
    assert browser.execute_script("return document.querySelector('.human').textContent") == ATTACK


def test_search_looks_into_items_traces_and_ids(browser: Any, page: str) -> None:
    open_page(browser, page)
    for text, count in (("reason 123", 1), ("AN ITEM 7", 11), ("plain-00", 10), ("no such text", 0)):
        search(browser, text)
        wanted = f"of {count} (408 in all)" if count else "No unit matches"
        wait(browser, f"document.getElementById('status').textContent.includes('{wanted}')")


def test_paging_goes_to_the_end_and_back_by_keyboard(browser: Any, page: str) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    pager = browser.find_element(By.ID, "pager-top")
    pager.find_element(By.CLASS_NAME, "next").send_keys(Keys.ENTER)
    wait(browser, "document.getElementById('status').textContent === 'Units 21\u201340 of 408'")
    assert browser.execute_script("return document.activeElement.className") == "next"
    pager.find_element(By.CLASS_NAME, "last").send_keys(Keys.ENTER)
    wait(browser, "document.getElementById('status').textContent === 'Units 401\u2013408 of 408'")
    assert not pager.find_element(By.CLASS_NAME, "next").is_enabled()
    box = pager.find_element(By.TAG_NAME, "input")
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("3", Keys.ENTER)
    wait(browser, "document.getElementById('status').textContent === 'Units 41\u201360 of 408'")


def test_of_two_pages_asked_for_in_a_row_the_later_one_is_shown(browser: Any, page: str) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, page)
    browser.find_element(By.CSS_SELECTOR, "#pager-top .next").click()
    wait(browser, "document.getElementById('status').textContent === 'Units 21\u201340 of 408'")
    # The last page's records have yet to be unpacked, the first one's are there.
    browser.execute_async_script(
        "const press = (name) => document.querySelector(`#pager-top .${name}`).click();"
        "press('last'); press('first'); setTimeout(arguments[0], 1000);"
    )
    assert browser.find_element(By.ID, "status").text == "Units 1\u201320 of 408"
    # The last page has eight.
    assert browser.execute_script("return document.querySelectorAll('#units > .unit').length") == 20


def test_the_keyboard_reaches_the_report_first_and_the_search_by_a_slash(browser: Any, page: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.execute_script("return document.activeElement.textContent") == "Skip to the report"
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return document.activeElement.id") == "main"
    ActionChains(browser).send_keys("/").perform()
    assert browser.execute_script("return document.activeElement.id") == "query"
    roles = browser.execute_script(
        "return ['header', 'nav', 'main', 'footer'].map(n => document.querySelectorAll(n).length)"
    )
    assert roles == [1, 1, 1, 1]


def test_every_plot_has_words_and_its_data(browser: Any, page: str) -> None:
    open_page(browser, page)
    counts = browser.execute_script(
        "return [document.querySelectorAll('svg').length,"
        " document.querySelectorAll('svg[role=img][aria-label]').length,"
        " document.querySelectorAll('figure details table').length, document.querySelectorAll('[style]').length]"
    )
    assert counts[0] == counts[1] == counts[2] > 1
    assert counts[3] == 0


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_it_without_scrolling_sideways(page: str, tmp_path: Path, dark: bool) -> None:
    with open_chromium(tmp_path / "profile", PHONE, dark=dark) as phone:
        open_page(phone, page)
        search(phone, "hostile-unbroken")
        wait(phone, "document.getElementById('status').textContent.startsWith('Units 1\u20131 of 1 ')")
        # Folded tables, too.
        phone.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true })")
        assert phone.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
        assert phone.execute_script(FAINT) == []
        paper, ink = phone.execute_script(
            "const s = getComputedStyle(document.body);"
            "return [s.backgroundColor, s.color].map(c => c.match(/\\d+/g).map(Number))"
        )
        assert (sum(paper) < sum(ink)) == dark
        plot = phone.execute_script("return getComputedStyle(document.querySelector('.fill-one')).fill")
        assert plot == ("rgb(125, 179, 224)" if dark else "rgb(39, 96, 143)")


def test_on_a_phone_a_table_gives_sentences_room_and_keeps_the_names_of_its_rows_in_sight(
    page: str, tmp_path: Path
) -> None:
    with open_chromium(tmp_path / "profile", PHONE) as phone:
        open_page(phone, page)
        left, width = phone.execute_script(
            "document.querySelector('#noise .scroll').scrollLeft = 200;"
            "const cell = s => document.querySelector('#noise tbody ' + s).getBoundingClientRect();"
            "return [cell('th').left, Math.max(...[...document.querySelectorAll('#noise tbody tr:first-child td')]"
            ".map(td => td.getBoundingClientRect().width))]"
        )
        assert left == 16  # the page's margin
        assert width >= PHONE[0] / 3


def test_nothing_is_loaded_from_anywhere(browser: Any, page: str) -> None:
    open_page(browser, page)
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
