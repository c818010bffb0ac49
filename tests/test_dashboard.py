"""Grafana's dashboard: a real Prometheus answers what every panel asks, while a run goes on."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ray_nodes import end, free_ports, ray_head
from bt_ray.ray_internals import CHUNKS_AHEAD
from bt_ray.training.prometheus import GAUGES

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}
NO_GPU = set[str]() if torch.cuda.is_available() else {"GPUs A", "GPU memory A"}
"""Queries without data, because there is no GPU."""
PROMETHEUS = shutil.which("prometheus")
OFTEN = {"RAY_metrics_report_interval_ms": "1000"}


def test_panels_have_names_and_places_of_their_own() -> None:
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    taken = [
        (x, y)
        for panel in everything
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_every_gauge_of_ours_has_a_panel() -> None:
    """But for steps that fp16 skips, which no run on a CPU has."""
    asked = " ".join(QUERIES.values())
    ours = {CHUNKS_AHEAD, *(name for name, _ in GAUGES.values())}
    shown = {name for name in ours if f"ray_bt_ray_{name}{{" in asked}
    assert shown == ours - {"skipped_steps"}


def test_the_panels_about_gpus_ask_for_what_ray_measures_where_there_are_some() -> None:
    """As far as its sources say; no test here sees their data."""
    from ray.dashboard.modules.reporter.reporter_agent import GPU_TAG_KEYS, METRICS_GAUGES

    asked = [query for title, query in QUERIES.items() if title.startswith("GPU")]
    assert len(asked) == 2
    for query in asked:
        [(labels, metric)] = re.findall(r"by \((.*)\) \(last_over_time\(ray_(\w+)\[", query)
        assert metric in METRICS_GAUGES
        assert set(labels.split(", ")) <= set(GPU_TAG_KEYS)


def _filled(query: str) -> str:
    """The query with all runs and data sets chosen, as Grafana sends it."""
    return query.replace("$run", ".*").replace("$dataset", ".*")


class Prometheus:
    """Prometheus's answers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self._url}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]

    def points(self, query: str, start: float) -> int:
        """How many finite points a panel from `start` until now would show."""
        now = time.time()
        found = self._get("query_range", query=query, start=f"{start:f}", end=f"{now:f}", step="1")[
            "result"
        ]
        values = [value for series in found for _, value in series["values"]]
        return sum(value not in ("NaN", "+Inf", "-Inf") for value in values)

    def label_values(self, metric: str, label: str) -> list[str]:
        """What a variable of the dashboard lets one choose."""
        found = self._get(f"label/{label}/values", **{"match[]": metric})
        assert isinstance(found, list)
        return found


@contextmanager
def _prometheus(config: Path, folder: Path) -> Iterator[Prometheus]:
    """Prometheus on loopback; with the configuration that Ray's head wrote, but scraping often."""
    often = config.read_text().replace("interval: 10s", "interval: 1s")
    assert "scrape_interval: 1s" in often
    (folder / "prometheus.yml").write_text(often)
    [port] = free_ports(1)
    process = subprocess.Popen(
        [str(PROMETHEUS), f"--config.file={folder}/prometheus.yml",
         f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield Prometheus(port)
    finally:
        end(process)


@contextmanager
def _run(address: str, storage: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run on the cluster that would go on for an hour."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.pretrain", "digits", "--name", "shown",
         "--storage", str(storage), "--schedule.epochs", "10000", "--views.image-px", "8",
         "--model.projector-widths", "64", "64", "--scaling.workers", "2",
         "--scaling.cpus-per-worker", "0.5", "--scaling.threads-per-worker", "1",
         "--data.global-batch", "128", "--training.log-every-steps", "1",
         "--training.checkpoint-every-epochs", "1"],
        cwd=ROOT, env={**os.environ, **OFTEN, "RAY_ADDRESS": address},
        stdout=subprocess.DEVNULL, stderr=(storage.parent / "stderr").open("wb"),
    )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


@pytest.mark.cluster
@pytest.mark.timeout(600)
@pytest.mark.skipif(PROMETHEUS is None, reason="needs Prometheus: apt-get install prometheus")
def test_every_panel_shows_data_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """The two panels about GPUs excepted, where there is none."""
    assert QUERIES.keys() >= NO_GPU
    left = {title: query for title, query in QUERIES.items() if title not in NO_GPU}
    start = time.time()
    with ray_head(**OFTEN) as head:
        config = head.temp / "session_latest" / "metrics" / "prometheus" / "prometheus.yml"
        with (
            _prometheus(config, tmp_path) as prometheus,
            _run(head.address, tmp_path / "runs") as run,
        ):
            deadline = time.monotonic() + 500
            while left and time.monotonic() < deadline:
                assert run.poll() is None, (tmp_path / "stderr").read_text()
                time.sleep(1)
                for title, query in list(left.items()):
                    if prometheus.points(_filled(query), start) >= 2:
                        del left[title]
            assert not left
            assert prometheus.label_values("ray_bt_ray_step", "run") == ["shown"]
            [dataset] = prometheus.label_values("ray_data_output_rows", "dataset")
            assert dataset.startswith("train_")
