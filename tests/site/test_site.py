"""The built site in a real browser: each page renders, is readable, and asks for nothing else."""

import functools
import http.server
import json
import queue
import subprocess
import threading
from pathlib import Path

import pytest

from tests.browser import chromium

BUILT = Path(__file__).parents[2] / "docs" / "_build" / "html"
VISIT = Path(__file__).with_name("visit.html")
PAGES = sorted(
    f"/{path.relative_to(BUILT).as_posix()}"
    for path in BUILT.rglob("*.html")
    if not path.is_relative_to(BUILT / "_static")
)
pytestmark = pytest.mark.skipif(not PAGES, reason="no site: make docs")


class Handler(http.server.SimpleHTTPRequestHandler):
    """The site, the page that visits it, and what that page found."""

    def do_GET(self):
        if self.path == "/visit.html":
            self._say(VISIT.read_bytes(), "text/html")
        elif self.path == "/pages.json":
            self._say(json.dumps(PAGES).encode(), "application/json")
        elif self.path == "/favicon.ico":  # What every browser asks for.
            self._say(b"", "image/x-icon")
        else:
            super().do_GET()

    def do_POST(self):
        self.server.found.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._say(b"", "text/plain")

    def _say(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """What a browser found on all pages, and its console's complaints."""
    directory = tmp_path_factory.mktemp("browser")
    command = chromium(directory / "profile", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    log = directory / "log"
    handler = functools.partial(Handler, directory=BUILT)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        log.open("wb") as output,
    ):
        server.found = queue.Queue()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = subprocess.Popen(
            [
                *command,
                *("--window-size=1300,1000", "--remote-debugging-port=0"),
                f"http://127.0.0.1:{server.server_port}/visit.html",
            ],
            stdout=output,
            stderr=output,
        )
        try:
            found = server.found.get(timeout=240)
        except queue.Empty:
            pytest.fail(
                f"the browser did not come back:\n{log.read_text(errors='replace')[-2000:]}"
            )
        finally:
            browser.terminate()
            browser.wait(30)
            server.shutdown()
    lines = log.read_text(errors="replace").splitlines()
    # What begins with [PST] is the theme's account of what it does, no complaint.
    return found, [line for line in lines if "CONSOLE" in line and "[PST]" not in line]


def test_every_page_renders_without_a_complaint(visited):
    found, complaints = visited
    assert [page["page"] for page in found["pages"]] == PAGES
    assert not complaints
    assert [page["page"] for page in found["pages"] if not page["title"]] == []
    assert [page["broken"] for page in found["pages"] if page["broken"]] == []


def test_no_request_leaves_the_machine(visited):
    assert [page for page in visited[0]["pages"] if page["foreign"]] == []


def test_phone_width_has_no_sideways_scrolling(visited):
    wide = {page["page"]: page["over"] for page in visited[0]["pages"] if page["over"] > 0}
    assert wide == {}


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(visited, mode):
    # WCAG asks 4.5 of body text and 3 of large text; the theme's code colours are between.
    faint = {p["page"]: p[mode] for p in visited[0]["pages"] if p[mode]["contrast"] < 4}
    assert faint == {}


def test_search_finds_coord_clip(visited):
    assert any("reference/optimizers.html" in link for link in visited[0]["search"])
