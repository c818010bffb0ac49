"""A comparison's files hold what its rows do, and a page needs nothing beside itself."""

import json
import re
from pathlib import Path

from bt_ray.comparison.show import write_comparison
from tests.comparison.made import outcome


def test_four_files_say_the_same(tmp_path: Path) -> None:
    found = outcome({"barlow_twins": [0.93, 0.95], "simclr": [0.80, 0.82]})
    files = write_comparison(found, tmp_path)
    assert {kind: file.name for kind, file in files.items()} == {
        kind: f"comparison.{kind}" for kind in ("md", "png", "json", "html")
    }
    text, page = files["md"].read_text(), files["html"].read_text()
    for title in ("Scores", "Differences from Barlow Twins", "Costs", "What the paper publishes"):
        assert f"## {title}\n" in text
        assert f"<h2>{title}</h2>" in page
    assert "| SimCLR | 0.4 (edge) | 81.0 ± 1.4 |" in text
    assert "<td>81.0 ± 1.4</td>" in page
    record = json.loads(files["json"].read_text())
    assert record["methods"][1]["scores"]["knn_top1"]["all"] == [0.80, 0.82]
    assert record["methods"][1]["contrasts"]["knn_top1"]["pairs"] == 2
    assert len(record["methods"][1]["results"]) == 2
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    """No address is asked for, and no script runs."""
    found = outcome({"barlow_twins": [0.93, 0.95], "simclr": [0.80, 0.82]})
    page = write_comparison(found, tmp_path)["html"].read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']""", page)
    assert not re.findall(r"<(?:script|link rel=\"stylesheet|img|iframe)", page)
    assert "<svg" in page


def test_methods_without_any_result_are_shown_as_waiting(tmp_path: Path) -> None:
    """A comparison that was stopped early still has its page."""
    found = outcome({"barlow_twins": [], "simclr": []}, untrained=None)
    files = write_comparison(found, tmp_path)
    text = files["md"].read_text()
    assert "not trained yet" in text
    assert files.keys() == {"md", "json", "html"}
    assert not any(word in text + files["html"].read_text() for word in (".png", "<svg"))
    assert "6 runs are still to be made" in text
