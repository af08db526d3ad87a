"""A browser without a window, in which tests open pages."""

import html
import json
import re
import shutil
import subprocess

import pytest

# Waits until all charts are drawn, does something, and writes what came out into the document.
PROBE = """
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const marks = (name, kind) => [...document.querySelectorAll(
  `[data-figure="${name}"] .chart svg .mark-${kind}.role-mark path`)].length;
const cells = (name, column) => {
  const table = document.querySelector(`[data-table="${name}"]`);
  const heads = [...table.querySelectorAll("th")].map((th) => th.textContent);
  return [...table.querySelectorAll("tbody tr")].map(
    (row) => row.children[heads.indexOf(column)].textContent);
};
const clickLegend = async (figure, text) => {
  const label = [...document.querySelectorAll(
    `[data-figure="${figure}"] .role-legend-label text`)].find((one) => one.textContent === text);
  const box = label.getBoundingClientRect();
  const at = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + 5 };
  for (const kind of ["pointerdown", "mousedown", "pointerup", "mouseup", "click"]) {
    label.dispatchEvent(new MouseEvent(kind, at));
  }
  await pause(300);
};
const choose = async (name, text) => {
  const select = document.querySelector(`select[name="${name}"]`);
  select.value = [...select.options].findIndex((one) => one.textContent === text);
  select.dispatchEvent(new Event("change"));
  await pause(300);
};
// Presses the last button of each place's tools: the names and the texts of what is downloaded.
const downloads = async (...places) => {
  const texts = [], names = [];
  // A blob's text is kept where it is made: reading it back takes real time, for which a browser
  // of virtual time does not wait.
  window.Blob = class extends Blob {
    constructor(parts, options) { super(parts, options); texts.push(parts.join("")); }
  };
  URL.createObjectURL = () => "#";
  HTMLAnchorElement.prototype.click = function () { names.push(this.download); };
  for (const place of places) {
    [...document.querySelectorAll(`${place} .tools button`)].at(-1).click();
  }
  await pause(500);
  return { names, texts };
};
(async () => {
  while (!document.documentElement.dataset.ready) await pause(50);
  const found = {};
  %s
  const out = document.createElement("output");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
})();
"""


def chromium(profile, network="MAP * ~NOTFOUND"):
    """The words of a command that lacks only what to open; skips the test where there is none.

    Host names resolve to nothing, but for what `network` leaves out.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    return [
        program,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--disable-background-networking", f"--host-resolver-rules={network}"),
        *("--enable-logging=stderr", f"--user-data-dir={profile}"),
    ]


@pytest.fixture
def browse(tmp_path):
    """Opens a page with a script at its end, headless: what its document then is, and complaints.

    The page is a file and the browser has no network.
    """
    command = chromium(tmp_path / "profile")

    def open_page(page, script="", width=1300):
        copy = tmp_path / "copy.html"
        # The last one: the charts' programs have pages of their own inside.
        before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
        copy.write_text(f"{before}<script>{script}</script>{end}{after}", "utf-8")
        done = subprocess.run(
            [
                *command,
                *("--virtual-time-budget=20000", f"--window-size={width},2000"),
                *("--dump-dom", copy.as_uri()),
            ],
            capture_output=True,
            timeout=120,
        )
        complaints = [
            x for x in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in x
        ]
        return done.stdout.decode(), complaints

    return open_page


@pytest.fixture
def probe_page(browse):
    """Runs a script in a page once its charts are drawn: what it puts into `found`, complaints."""

    def run(page, script, **options):
        document, complaints = browse(page, PROBE % script, **options)
        found = re.search(r'<output id="probe">(.*?)</output>', document, re.S)
        assert found, complaints
        return json.loads(html.unescape(found[1])), complaints

    return run
