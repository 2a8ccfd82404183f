"""The page at ``/`` in a real browser: files, a folder, a drop; its numbers are those of ``glomedge infer``."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options, infer_folder
from helpers.page_checks import text_of
from helpers.run_kit import write_crops
from helpers.server import Server, serving, until

TOKEN = "5f2d8c1be0a94737"
_DROP = """
const [files, done] = arguments;
const transfer = new DataTransfer();
for (const [name, data] of files)
  transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], name));
const event = new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
document.getElementById("drop").dispatchEvent(event);
done(event.defaultPrevented);
"""


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 crops of three biopsies in two folders, one broken, and what is no crop."""
    folder = tmp_path_factory.mktemp("night") / "scans"
    write_crops(folder, 24, side_px=150)
    (folder / "notes.txt").write_text("no crop")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def published(crops: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``glomedge infer`` makes of them."""
    output = tmp_path_factory.mktemp("infer")
    infer_folder(Options(crops, tiny_model, output, EngineOptions("cpu")))
    return output


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if shutil.which("chromedriver") is None:
        pytest.skip("Chromium and ChromeDriver are not installed (Debian: chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'glomedge[dev]'")
    from benchmarks.speed.report_browser import browser

    with browser((1280, 900), tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Visit:
    """Somebody on the page, just opened."""

    def __init__(self, chrome: Any, server: Server) -> None:
        self.chrome = chrome
        self.base = f"http://127.0.0.1:{server.port}/"
        chrome.get(self.base)

    def part(self, identity: str) -> Any:
        return self.chrome.find_element("id", identity)

    def text(self, identity: str) -> str:
        return str(self.part(identity).text)

    def finished(self) -> None:
        """Wait for the results, or fail with what the page says."""
        until(lambda: self.part("results").is_displayed() or bool(self.text("wrong")), 60)
        assert self.text("wrong") == ""

    def downloaded(self, name: str, folder: Path) -> str:
        self.chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.chrome.find_element("css selector", f"button[data-file='{name}']").click()
        until((folder / name).is_file)
        return (folder / name).read_text("utf-8")

    def check_nothing_left(self) -> None:
        """Every request went to this server, and nothing was blocked or went wrong."""
        names = self.chrome.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert [name for name in names if not name.startswith((self.base, "data:", "blob:"))] == []
        assert [entry for entry in self.chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_folder_gives_the_files_of_infer(
    chrome: Any, server: Server, crops: Path, published: Path, tmp_path: Path
) -> None:
    visit = Visit(chrome, server)
    visit.part("folder").send_keys(str(crops))
    visit.finished()
    assert visit.text("said") == "24 of 24 crops classified, 1 without an answer; 2 other files left out."
    assert visit.downloaded("cases.csv", tmp_path) == (published / "cases.csv").read_text("utf-8")
    found, expected = (
        rows(visit.downloaded("predictions.csv", tmp_path)),
        rows((published / "predictions.csv").read_text()),
    )
    for row, other in zip(found, expected, strict=True):
        probability, wanted = row.pop("probability"), other.pop("probability")
        assert row == other
        assert probability == wanted or abs(float(probability) - float(wanted)) <= 1e-6
    report = visit.downloaded("report.html", tmp_path)
    assert report.startswith("<!DOCTYPE html>")
    assert "crops given to the page" in report
    visit.check_nothing_left()


def test_the_results_are_shown_as_in_the_report(chrome: Any, server: Server, crops: Path, published: Path) -> None:
    visit = Visit(chrome, server)
    visit.part("files").send_keys("\n".join(map(str, sorted(crops.rglob("case*.png")))))
    visit.finished()
    assert chrome.switch_to.active_element.get_attribute("id") == "results-title"
    for row in rows((published / "cases.csv").read_text("utf-8")):
        (section,) = [part for part in chrome.find_elements("class name", "case") if row["case"] in part.text]
        assert f"{float(row['percent_gs']):.1f}%" in section.text
        told = re.search(r"\(([\d.]+) to ([\d.]+)\)", section.text)
        assert told is not None
        # cases.csv has one decimal more.
        assert float(told[1]) == pytest.approx(float(row["interval_low"]), abs=0.0551)
        assert float(told[2]) == pytest.approx(float(row["interval_high"]), abs=0.0551)
        assert section.find_element("tag name", "svg").get_attribute("aria-label")
    gallery = chrome.find_elements("css selector", ".gallery[id^=crops] figure")
    assert len(gallery) == 23
    assert len(chrome.find_elements("css selector", ".gallery[id^=crops] figure img.map")) == 23
    chrome.execute_script("arguments[0].focus()", gallery[0])
    until(lambda: float(gallery[0].find_element("class name", "map").value_of_css_property("opacity")) > 0.5)
    until(lambda: bool(chrome.execute_script("return document.querySelector('figure img').naturalWidth > 50")))
    assert text_of(chrome.page_source).count(RESEARCH_USE_NOTICE) == 2
    visit.check_nothing_left()


def test_a_drop_is_answered_and_cleared(chrome: Any, server: Server, crops: Path) -> None:
    visit = Visit(chrome, server)
    paths = sorted((crops / "a").iterdir())[:3]
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    assert chrome.execute_async_script(_DROP, files) is True
    visit.finished()
    assert visit.text("said").startswith("3 of 3 crops classified")
    visit.part("clear").click()
    until(lambda: visit.text("said") == "Cleared.")
    assert not visit.part("results").is_displayed()
    assert chrome.find_elements("tag name", "figure") == []
    visit.check_nothing_left()


_WATCH = """
const real = window.fetch;
window.events = [];
let puts = 0;
window.fetch = async (path, how) => {
  if (how.method !== "PUT") {
    window.events.push(how.method);
    return real(path, how);
  }
  puts += 1;
  if (puts === FAILING) return new Response('{"error": "The crop is refused."}', {status: 400});
  try {
    await new Promise((done, wrong) => {
      how.signal?.addEventListener("abort", () => wrong(how.signal.reason));
      setTimeout(done, 700);
    });
    return await real(path, how);
  } finally {
    window.events.push("PUT is over");
  }
};
"""


@pytest.mark.parametrize(("failing", "said", "wrong"), [(2, "", "The crop is refused."), (0, "Stopped.", "")])
def test_no_crop_is_on_its_way_when_its_run_is_forgotten(
    chrome: Any, server: Server, crops: Path, failing: int, said: str, wrong: str
) -> None:
    visit = Visit(chrome, server)
    chrome.execute_script(_WATCH.replace("FAILING", str(failing)))
    visit.part("files").send_keys("\n".join(map(str, sorted(crops.rglob("case*.png")))))
    if not failing:
        until(lambda: visit.part("stop").is_displayed())
        visit.part("stop").click()
    until(lambda: not visit.part("work").is_displayed())
    events = chrome.execute_script("return window.events")
    assert events == ["POST", *["PUT is over"] * (len(events) - 2), "DELETE"]
    assert len(events) > 4
    assert visit.text("said").startswith(said)
    assert visit.text("wrong") == wrong


def test_what_is_no_crop_is_said(chrome: Any, server: Server, crops: Path) -> None:
    visit = Visit(chrome, server)
    visit.part("files").send_keys(str(crops / "notes.txt"))
    until(lambda: "no image" in visit.text("wrong"))
    assert ".png" in visit.text("wrong")


def test_a_hostile_name_is_text(chrome: Any, server: Server, crops: Path) -> None:
    visit = Visit(chrome, server)
    data = base64.b64encode(next((crops / "a").glob("*.png")).read_bytes()).decode()
    chrome.execute_async_script(_DROP, [["<img src=x onerror=document.title='hacked'>.png", data]])
    visit.finished()
    assert chrome.title == "Globally sclerotic glomeruli"
    assert chrome.find_elements("css selector", "img[src=x]") == []


def test_keys_and_names_for_those_who_do_not_see(chrome: Any, server: Server) -> None:
    visit = Visit(chrome, server)
    from selenium.webdriver.common.keys import Keys

    seen = []
    for _ in range(2):
        chrome.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(chrome.switch_to.active_element.get_attribute("id"))
    assert seen == ["pick-files", "pick-folder"]
    chrome.execute_script("for (const id of ['work', 'results']) document.getElementById(id).hidden = false")
    chrome.execute_cdp_cmd("Accessibility.enable", {})
    nodes = chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    assert {("button", "Choose files"), ("button", "Choose a folder"), ("button", "Stop")} <= set(told)
    assert {role for role, _ in told} >= {"main", "progressbar", "status", "alert", "banner", "contentinfo"}
    assert not [role for role, name in told if role in ("button", "textbox", "region") and not name]
    assert visit.part("said").get_attribute("role") == "status"


@pytest.mark.parametrize("width_px", [1280, 390])
def test_nothing_is_wider_than_the_screen(chrome: Any, server: Server, crops: Path, width_px: int) -> None:
    metrics = {"width": width_px, "height": 844, "deviceScaleFactor": 1, "mobile": width_px < 500}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        visit = Visit(chrome, server)
        visit.part("folder").send_keys(str(crops))
        visit.finished()
        wide_px = chrome.execute_script("return document.documentElement.scrollWidth")
        assert wide_px <= width_px
    finally:
        chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_token_is_asked_for_where_one_is_needed(chrome: Any, tiny_model: Path, crops: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with serving(tiny_model, "--token-file", str(tokens)) as server:
        visit = Visit(chrome, server)
        one = str(next((crops / "b").glob("*.png")))
        visit.part("files").send_keys(one)
        until(lambda: "token" in visit.text("wrong"))
        visit.part("token").send_keys(TOKEN)
        visit.part("files").send_keys(one)
        visit.finished()
        assert visit.downloaded("cases.csv", tmp_path).count("\n") == 2


def test_a_server_that_ended_is_said(chrome: Any, tiny_model: Path, crops: Path) -> None:
    with serving(tiny_model) as server:
        visit = Visit(chrome, server)
        assert server.stop() == 0
    visit.part("files").send_keys(str(next((crops / "b").glob("*.png"))))
    until(lambda: "cannot be reached" in visit.text("wrong"))


# Without a browser: what its script asks for.


def begin(server: Server) -> str:
    reply = server.request("POST", "/v1/runs")
    assert reply.status == 201
    return f"/v1/runs/{reply.json()['id']}"


def test_page_and_report_can_run_nothing_of_others(server: Server, crops: Path) -> None:
    page = server.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script-src" not in policy.replace("script-src 'self'", "")
    assert b"<script>" not in page.body
    run = begin(server)
    crop = next((crops / "b").glob("*.png")).read_bytes()
    assert server.request("PUT", f"{run}/crops?name=b/x.png", crop).status == 200
    assert server.request("POST", f"{run}/finish").status == 200
    policy = server.get(f"{run}/report.html").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert server.request("DELETE", run).status == 200


def test_a_run_is_finished_before_it_is_read_and_gone_afterwards(server: Server, crops: Path) -> None:
    run = begin(server)
    crop = next((crops / "b").glob("*.png")).read_bytes()
    assert server.request("POST", f"{run}/finish").status == 400
    assert server.get(f"{run}/cases.csv").status == 409
    for name in ("", "a%00", "x" * 1001):
        assert server.request("PUT", f"{run}/crops?name={name}", crop).status == 400
    for _ in range(2):  # sent again after a lost answer: still one crop
        assert server.request("PUT", f"{run}/crops?name=S-1_1.png", crop).json()["status"]
    for _ in range(2):
        assert server.request("POST", f"{run}/finish").status == 200
    assert server.request("PUT", f"{run}/crops?name=S-1_2.png", crop).status == 409
    assert rows(server.get(f"{run}/cases.csv").body.decode())[0]["crops"] == "1"
    for file in ("run.json", "..%2Fetc%2Fpasswd", "thumbnails"):
        assert server.get(f"{run}/{file}").status == 404
    assert server.request("DELETE", run).status == 200
    assert server.get(f"{run}/cases.csv").status == 404


def test_runs_are_few_and_leave_nothing_behind(
    tiny_model: Path, crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    crop = next((crops / "b").glob("*.png")).read_bytes()
    with serving(tiny_model) as server:
        made = [begin(server) for _ in range(8)]
        refused = server.request("POST", "/v1/runs")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        server.request("PUT", f"{made[0]}/crops?name=x.png", crop)
        assert len(list(tmp_path.glob("glomedge-page-*"))) == 8
        server.request("POST", f"{made[1]}/forget")
        assert len(list(tmp_path.glob("glomedge-page-*"))) == 7
        begin(server)
        assert server.stop() == 0
    assert list(tmp_path.glob("glomedge-page-*")) == []


def test_names_on_the_page_never_reach_the_log(server: Server) -> None:
    run = begin(server)
    server.request("PUT", f"{run}/crops?name=Doe-4711.png", b"no picture")
    server.request("DELETE", run)
    time.sleep(0.1)
    assert b"Doe-4711" not in bytes(server.raw)
    assert json.dumps(server.audit()[-1]["crops"][0]["status"]).startswith('"error:')
