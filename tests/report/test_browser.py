"""A page as a browser shows it: nothing is wider than a phone, all pictures are there."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bt_ray.config import Settings
from bt_ray.report.page import build_page
from bt_ray.report.record import find_run
from tests.report.runs import begun_run, evaluated, finished_run

pytestmark = pytest.mark.cluster  # a browser is many processes
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS_PX = {"phone": 390, "laptop": 1280}
FRAMES = """<!doctype html><body>
<iframe id="phone" style="width:390px;height:900px" src="report.html"></iframe>
<iframe id="laptop" style="width:1280px;height:900px" src="report.html"></iframe>
<script>
addEventListener("load", () => {
  const look = frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const tables = [...page.querySelectorAll(".scroll, pre")];
    return {
      width: root.scrollWidth, room: root.clientWidth, height: root.scrollHeight,
      images: [...page.images].filter(i => i.naturalWidth > 0).length,
      svgs: [...page.querySelectorAll("svg")]
        .filter(s => s.getBoundingClientRect().width > 100).length,
      font: parseFloat(getComputedStyle(page.body).fontSize),
      outside: [...page.querySelectorAll("body *")].filter(e =>
        e.getBoundingClientRect().right > root.clientWidth + 1
        && !tables.some(t => t.contains(e)) && !e.closest("svg")).length,
    };
  };
  document.body.dataset.seen = JSON.stringify(
    Object.fromEntries([...document.querySelectorAll("iframe")].map(f => [f.id, look(f)])));
});
</script>"""


def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a headless browser prints; its log goes to stderr."""
    assert BROWSER is not None
    return subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


@pytest.fixture
def page(small_settings: Settings, tmp_path: Path) -> Path:
    """A page of two finished runs and one that has only begun."""
    if BROWSER is None:
        pytest.skip("needs a browser: apt-get install chromium")
    _, run = finished_run(small_settings)
    finished_run(small_settings, name="a-run-with-quite-a-long-name", **{"training.seed": 1})
    begun_run(small_settings, name="begun")
    evaluated(small_settings.storage, run, "linear", {"linear_top1": 0.9, "linear_top5": 1.0})
    names = ("small", "a-run-with-quite-a-long-name", "begun")
    file = tmp_path / "report.html"
    file.write_text(build_page([find_run(name, str(tmp_path)) for name in names]).html)
    (tmp_path / "frames.html").write_text(FRAMES)
    return file


def test_a_browser_shows_the_page_on_a_phone_and_on_a_laptop(page: Path) -> None:
    done = browse(
        "--allow-file-access-from-files", "--virtual-time-budget=10000", "--dump-dom",
        (page.parent / "frames.html").as_uri(),
    )  # fmt: skip
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found is not None
    seen: dict[str, dict[str, Any]] = json.loads(unescape(found[1]))
    html = page.read_text()
    for name, width in WIDTHS_PX.items():
        view = seen[name]
        assert view["room"] <= width
        assert view["width"] == view["room"], "the page scrolls sideways"
        assert view["outside"] == 0
        assert view["images"] == html.count("<img ")
        assert view["svgs"] == html.count("<svg ")
        assert view["font"] >= 16
    assert seen["phone"]["height"] > seen["laptop"]["height"]


def test_a_browser_has_nothing_to_complain_about(page: Path, tmp_path: Path) -> None:
    """No error or warning of the page in the console; and it is drawn, in colours."""
    picture = tmp_path / "page.png"
    done = browse("--window-size=1280,3000", f"--screenshot={picture}", page.as_uri())
    assert "CONSOLE" not in done.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape == (3000, 1280, 3)
    for color in ((0, 114, 178), (213, 94, 0)):  # of the two runs
        assert (np.abs(pixels - color).max(-1) < 10).sum() > 500
    assert (pixels.min(-1) > 250).mean() > 0.5  # light


def test_a_page_with_a_fault_is_noticed(page: Path) -> None:
    """What the test above would see of a missing picture, or of something too wide."""
    html = page.read_text()
    page.write_text(html.replace("</body>", '<img src="https://example.org/x.png"></body>'))
    done = browse("--window-size=800,600", f"--screenshot={page}.png", page.as_uri())
    assert "CONSOLE" in done.stderr
