"""What is published: both files build, install into a new environment, and hold all they need."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = {"plot", "report", "models", "all", "experiments", "examples", "docs", "test", "dev"}
LOOK = """
import importlib.metadata, importlib.resources, json
import sharpjax, sharpjax.models, sharpjax.plot, sharpjax.report
files = importlib.resources.files("sharpjax")
print(json.dumps({
    "version": sharpjax.__version__,
    "where": sharpjax.__file__,
    "typed": (files / "py.typed").is_file(),
    "report": sorted(x.suffix for x in (files / "report").iterdir() if not x.suffix == ".py"),
    "extras": importlib.metadata.metadata("sharpjax").get_all("Provides-Extra"),
    "urls": importlib.metadata.metadata("sharpjax").get_all("Project-URL"),
}))
"""


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    # The wheel is made from the source distribution, by the setuptools that is here.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT))
    return out


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_a_new_environment_has_all_of_it(kind, built, tmp_path):
    (file,) = built.glob(kind)
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    said = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    site = Path(said.strip())
    # What it depends on is not downloaded: it is where these tests run.
    here = [path for path in sys.path if path.endswith("-packages")]
    (site / "here.pth").write_text("\n".join(here) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    run(*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", str(file))
    found = json.loads(run(str(python), "-I", "-c", LOOK))
    assert Path(found["where"]).is_relative_to(site)
    assert found["typed"] and {".css", ".html", ".js"} <= set(found["report"])
    assert set(found["extras"]) == EXTRAS and found["urls"]
    # Every extra's requirements are met by what the tests run with, so none is misspelt.
    if kind == "*.whl":
        run(*pip, "--dry-run", f"{file}[all,experiments,examples]")
