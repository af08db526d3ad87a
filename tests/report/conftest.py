"""A small comparison, and a browser without a window to open pages in."""

import shutil
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.report import write_comparison

NAMES = ("sgd", "adam", "sgd_clip", "lion")


def compared(names, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 12)).astype(np.float32) * np.logspace(0, -1, 12, dtype=np.float32)
    y = (x @ rng.normal(size=12)).astype(np.float32)

    def loss(w, batch):
        return jnp.mean((jnp.tanh(batch[0] @ w) - batch[1]) ** 2)

    training = [(x[i % 4], y[i % 4]) for i in range(20)]
    options |= {"every": 10, "learning_rate": 0.05, "fraction": 0.25}
    return sharpjax.compare(loss, jnp.full(12, 0.1), names, training, (x, y), **options)


@pytest.fixture(scope="session")
def comparison():
    return compared(NAMES, follow="adam")


@pytest.fixture(scope="session")
def page(comparison, tmp_path_factory):
    return write_comparison(comparison, tmp_path_factory.mktemp("report") / "page.html")


@pytest.fixture
def browse(tmp_path):
    """Opens a page with a script at its end, headless: what its document then is, and complaints.

    The page is a file and the browser has no network: a host name resolves to nothing.
    """
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")

    def open_page(page, script="", width=1300):
        copy = tmp_path / "copy.html"
        # The last one: the charts' programs have pages of their own inside.
        before, end, after = page.read_text(encoding="utf-8").rpartition("</body>")
        copy.write_text(f"{before}<script>{script}</script>{end}{after}", "utf-8")
        done = subprocess.run(
            [
                program,
                *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"),
                *("--virtual-time-budget=20000", "--enable-logging=stderr"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"),
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
