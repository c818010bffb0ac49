"""The commands about a pretrained encoder, on a run that was really made."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from bt_ray.config import Settings, override
from bt_ray.training.launch import pretrain
from bt_ray.training.summary import Summary
from tests.pipelines.test_commands import PYTHON, command, last_json


def commanded(pipeline: str, *arguments: str) -> dict[str, object]:
    done = command(PYTHON, "-m", f"pipelines.{pipeline}", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return last_json(done.stdout)


@pytest.fixture
def finished(small_settings: Settings) -> tuple[Settings, Summary]:
    settings = override(small_settings, {"scaling.workers": 0})
    return settings, pretrain(settings)


@pytest.mark.cluster
def test_a_run_is_scored_exported_and_scored_again(
    finished: tuple[Settings, Summary], tmp_path: Path
) -> None:
    """By its folder, by its registered version, by an alias; the file it was exported to too."""
    settings, summary = finished
    storage = ("--storage", settings.storage)
    client = MlflowClient(summary.paths["mlflow"])
    client.set_registered_model_alias(settings.registered_model, "champion", "1")

    by_folder = commanded("evaluate", "knn", summary.paths["run"], *storage, "--neighbors", "20")
    names = (f"models:/{settings.registered_model}@champion", f"models:/{summary.model_version}")
    by_name = [
        commanded("evaluate", "knn", name, *storage, "--neighbors", "20", "--no-baseline")
        for name in names
    ]
    assert by_folder["run_id"] == by_name[0]["run_id"] == summary.run_id
    top1 = by_folder["scores"]["knn_top1"]  # type: ignore[index]
    assert top1 > 0.8
    assert [found["scores"] for found in by_name] == [{"knn_top1": top1}] * 2

    run = client.get_run(summary.run_id)
    assert run.data.metrics["eval/knn_top1"] == pytest.approx(top1)
    kept = json.loads(Path(by_folder["paths"]["result"]).read_text())  # type: ignore[index]
    assert kept["scores"] == by_folder["scores"]

    exported = commanded("export", summary.paths["run"], str(tmp_path / "files"), *storage)
    card = Path(exported["paths"]["card"]).read_text()  # type: ignore[index]
    assert f"| knn_top1 | {top1:.2%} |" in card
    weights = exported["paths"]["safetensors"]  # type: ignore[index]
    shape = ("--architecture", settings.model.encoder, "--image-px", str(settings.views.image_px))
    data = ("--train", settings.data.train, "--test", str(settings.data.test))
    again = commanded(
        "evaluate", "linear", weights, *storage, *shape, *data, "--no-baseline",
        "--protocol", "fast", "--workers", "0",
    )  # fmt: skip
    assert again["run_id"] is None
    assert again["scores"]["linear_fast_top1"] > 0.8  # type: ignore[index]
    refused = command(PYTHON, "-m", "pipelines.evaluate", "knn", weights, *storage, *shape)
    assert refused.returncode == 2
    assert "give --train FOLDER --test FOLDER" in refused.stderr.replace("\n", " ")
