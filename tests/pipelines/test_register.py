"""The registry's commands: what they print, decide, and refuse in a sentence."""

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as service

from bt_ray.checkpoints.best import keep_if_best
from bt_ray.checkpoints.checkpoint import last_checkpoint, save_checkpoint
from bt_ray.config import SETTINGS_FILE, Settings, override, to_json
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.evaluation.record import keep_evaluation
from bt_ray.model.weights import ENCODER, fingerprint
from bt_ray.storage.store import Store
from bt_ray.tracking import registry, registry_promotion
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.mlflow_inputs import record_inputs
from bt_ray.tracking.mlflow_record import recorded_run, run_of_folder
from bt_ray.tracking.registry_alias import describe_version, give_alias
from bt_ray.tracking.registry_promotion import promote
from bt_ray.tracking.registry_source import find_source
from tests.states import build_state

STEP = 50


def stub_model(folder: Path, checkpoint: Path, **_: Any) -> None:
    """What matters here of a model's files; the whole takes seconds to write."""
    (folder / "artifacts").mkdir(parents=True)
    for name in (ENCODER, SETTINGS_FILE):
        shutil.copy(checkpoint / name, folder / "artifacts")


def finished(settings: Settings, name: str, knn: float, **changes: Any) -> tuple[Path, MlflowRun]:
    """A run's folder and record after 50 steps, its probe having measured `knn`."""
    settings = override(
        settings, {"name": name, "tracking.registered_model": "digits", "training.seed": len(name)}
    )
    settings = override(settings, changes)
    folder = Path(settings.storage) / name
    folder.mkdir()
    (folder / SETTINGS_FILE).write_text(to_json(settings))
    run, _ = run_of_folder(folder, settings)
    record_inputs(run, settings)
    for step, value in ((0, 0.1), (STEP, knn)):
        run.log(step, {"knn/top1": value, "probe/rankme": 30.0 + step, "train/loss": 3.0})
    run.tag("steps", str(STEP))
    state = build_state(settings, torch.device("cpu"))
    for step in (STEP // 2, STEP):
        state.step = step
        save_checkpoint(folder / "local" / f"checkpoint_{step:09d}", state, settings)
    (folder / "summary.json").write_text(json.dumps({"steps": STEP, "total_steps": STEP}))
    run.end("FINISHED")
    return folder, run


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "save_model", stub_model)


Ask = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def ask(
    small_settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ask:
    """Gives the command in this process: its exit code, its last line, what people read."""

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.setenv("COLUMNS", "200")
        storage = ("--storage", small_settings.storage)
        monkeypatch.setattr(sys, "argv", ["register", *arguments, *storage])
        capsys.readouterr()
        code = 0
        try:
            import_module("pipelines.register").main()
        except SystemExit as left:
            code = int(left.code or 0)
        printed = capsys.readouterr()
        assert printed.out.count("\n") == (code == 0)
        record = json.loads(printed.out) if printed.out else {}
        return code, record, " ".join(printed.err.split())

    return run


@pytest.fixture(scope="module")
def template(shared_settings: Settings) -> Path:
    """A storage with three runs of the model `digits`, each registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "save_model", stub_model)
        for name, knn, changes in (
            ("fair", 0.80, {}), ("better", 0.90, {}), ("otherwise", 0.95, {"probe.neighbors": 7}),
        ):  # fmt: skip
            folder, run = finished(shared_settings, name, knn, **changes)
            source = find_source(str(folder), shared_settings.storage)
            registry.register_encoder(run, source.checkpoint, source.settings)
    return Path(shared_settings.storage)


@pytest.fixture
def versions(small_settings: Settings, template: Path) -> dict[str, MlflowRun]:
    """Versions 1 (fair), 2 (better) and 3 (measured otherwise), in a copy of that storage."""
    storage = Path(small_settings.storage)
    shutil.copytree(template, storage, dirs_exist_ok=True)
    service._artifact_repos_cache.clear()  # as a process that did not know the template has it
    runs = {name: recorded_run(storage / name) for name in ("fair", "better", "otherwise")}
    return {name: run for name, run in runs.items() if run is not None}


def holder(settings: Settings, alias: str = "champion") -> str:
    client = MlflowClient(f"sqlite:///{settings.storage}/mlflow.db")
    return str(client.get_model_version_by_alias("digits", alias).version)


def test_a_run_is_registered_once_by_any_of_its_names(small_settings: Settings, ask: Ask) -> None:
    folder, run = finished(small_settings, "mine", 0.8)
    for name in (str(folder), "mine", run.run_id, f"runs:/{run.run_id}"):
        code, record, words = ask("register", name)
        assert (code, record["model_version"], record["run_id"]) == (0, "digits/1", run.run_id)
        assert "digits/1 is the encoder in" in words
    checkpoint = folder / "local" / f"checkpoint_{STEP // 2:09d}"
    code, record, words = ask("register", str(checkpoint), "--json")
    assert (record["model_version"], words) == ("digits/2", "")
    assert ask("register", str(folder), "--name", "other")[1]["model_version"] == "other/1"


def test_what_cannot_be_registered_is_told(small_settings: Settings, ask: Ask) -> None:
    code, _, words = ask("register", "absent")
    assert code == 2
    assert "'absent' is no run and no checkpoint" in words
    folder, _ = finished(small_settings, "mine", 0.8)
    (folder / "summary.json").write_text(json.dumps({"steps": 40, "total_steps": 50}))
    code, _, words = ask("register", "mine")
    assert code == 2
    assert "did 40 of 50 steps: the same command finishes it" in words
    (folder / "summary.json").write_text(json.dumps({"steps": 50, "total_steps": 50}))
    (folder / "mlflow_run.json").unlink()
    code, _, words = ask("register", "mine")
    assert code == 2
    assert "does not say which MLflow run it is" in words


def test_models_versions_aliases_and_scores_are_listed(
    small_settings: Settings, ask: Ask, versions: dict[str, MlflowRun]
) -> None:
    ask("promote", "digits/1")
    code, record, words = ask("list")
    assert code == 0
    assert all(word in words for word in ("digits", "champion", "knn/top1 0.8000"))
    [model] = record["models"]
    assert model["aliases"] == {"champion": "1"}
    assert [one["version"] for one in model["versions"]] == ["3", "2", "1"]
    assert [one["scores"]["knn/top1"] for one in model["versions"]] == [0.95, 0.90, 0.80]
    assert model["versions"][0]["run_id"] == versions["otherwise"].run_id
    assert ask("list", "digits", "--json")[1:] == (record, "")
    code, _, words = ask("list", "absent")
    assert code == 2
    assert "There is no model 'absent'" in words


@pytest.mark.usefixtures("versions")
def test_a_version_is_promoted_if_it_was_measured_to_be_better(
    small_settings: Settings, ask: Ask
) -> None:
    code, record, _ = ask("promote", "digits/1")
    assert (code, record["changed"], record["before"]) == (0, True, None)
    code, record, words = ask("promote", "digits/2")
    assert (code, record["before"], record["measure"]) == (0, "digits/1", "knn/top1")
    assert (record["score"], record["score_before"]) == (0.90, 0.80)
    assert "its knn/top1 is 0.9000, and that of digits/1 (champion) 0.8000" in words
    assert ask("promote", "models:/digits/2")[1]["changed"] is False
    code, _, words = ask("promote", "digits/1")
    assert code == 2
    assert "digits/1 is not better, and does not become champion: its knn/top1 is 0.8000" in words
    assert holder(small_settings) == "2"


@pytest.mark.usefixtures("versions")
def test_what_was_measured_otherwise_is_not_compared(small_settings: Settings, ask: Ask) -> None:
    ask("promote", "digits/2")
    code, _, words = ask("promote", "digits/3")
    assert code == 2
    assert "was not measured alike, and so the alias stays" in words
    assert "k=7" in words
    assert "`python -m pipelines.evaluate knn models:/digits/3`" in words
    assert ask("promote", "digits/3", "--anyway", " ")[0] == 2
    assert holder(small_settings) == "2"
    code, record, _ = ask("promote", "digits/3", "--anyway", "k = 7 is the paper's")
    assert (code, record["reason"], record["score"]) == (0, "k = 7 is the paper's", None)
    [model] = ask("list")[1]["models"]
    assert model["versions"][0]["tags"]["champion.anyway"] == "k = 7 is the paper's"


@pytest.mark.usefixtures("versions")
def test_a_margin_and_another_alias(small_settings: Settings, ask: Ask) -> None:
    ask("promote", "digits/1", "--alias", "beta")
    code, _, words = ask("promote", "digits/2", "--alias", "beta", "--margin", "0.2")
    assert code == 2
    assert "not better by more than 0.2000" in words
    assert ask("promote", "digits/2", "--alias", "beta", "--by", "linear_top1")[0] == 2
    assert ask("promote", "digits/2", "--alias", "beta", "--by", "knn/top1")[0] == 0
    assert holder(small_settings, "beta") == "2"
    for wrong in ("digits", "digits/x", "digits/9", "absent/1"):
        code, _, words = ask("promote", wrong)
        assert code == 2
        assert "`python -m pipelines.register list` tells" in words


def test_evaluations_of_a_versions_own_weights_decide(
    small_settings: Settings, ask: Ask, versions: dict[str, MlflowRun]
) -> None:
    """And those of another checkpoint of the run do not count."""
    storage = Path(small_settings.storage)

    def evaluate(name: str, score: float, *, weights: str | None = None) -> None:
        pretrained, _ = open_encoder(str(storage / name), small_settings)
        record = {
            "scores": {"knn_top1": score, "knn_top1_untrained": 0.99},
            "evaluation": "knn",
            "order": {"encoder": str(storage / name), "neighbors": 20, "temperature": 0.1},
            "data": {"train": {"digest": "a"}, "test": {"digest": "b"}},
            "weights": weights or fingerprint(pretrained.encoder),
        }
        keep_evaluation(
            record, name="knn", reference=f"{name}{weights}", storage=storage, run=versions[name]
        )

    ask("promote", "digits/1")
    evaluate("fair", 0.70)
    evaluate("otherwise", 0.99, weights="others")
    assert ask("promote", "digits/3")[0] == 2
    evaluate("otherwise", 0.71)
    code, record, _ = ask("promote", "digits/3")
    assert (code, record["measure"], record["score"]) == (0, "knn_top1", 0.71)
    assert record["protocol"] == "kNN, k=20, temperature=0.1, train a, test b"


@pytest.mark.usefixtures("versions")
def test_an_alias_is_rolled_back_as_far_as_it_came(small_settings: Settings, ask: Ask) -> None:
    assert ask("roll-back", "digits")[0] == 2
    for version in ("1", "2", "3"):
        ask("promote", f"digits/{version}", "--anyway", "a test")
    code, record, words = ask("roll-back", "digits", "--why", "it was slow")
    assert (code, record["model_version"], record["before"]) == (0, "digits/2", "digits/3")
    assert "digits/2 is champion again, in place of digits/3. it was slow" in words
    assert ask("roll-back", "digits")[1]["model_version"] == "digits/1"
    code, _, words = ask("roll-back", "digits")
    assert code == 2
    assert "No other version of digits was champion before version 1" in words
    [model] = ask("list")[1]["models"]
    kinds = [(move["kind"], move["version"]) for move in model["history"]["champion"]]
    assert kinds == [
        ("promoted", "1"), ("promoted", "2"), ("promoted", "3"),
        ("rolled back", "2"), ("rolled back", "1"),
    ]  # fmt: skip
    tags = model["versions"][0]["tags"]
    assert "in place of digits/3. it was slow" in tags["champion.rolled_back"]
    code, _, words = ask("roll-back", "absent")
    assert "There is no version of a model 'absent'" in words


def test_rolling_back_knows_sweeps_hands_and_deletions(
    small_settings: Settings, ask: Ask, versions: dict[str, MlflowRun]
) -> None:
    uri = versions["fair"].uri
    client = MlflowClient(uri)
    give_alias(uri, "digits", "1")  # as a sweep does
    ask("promote", "digits/2")
    client.set_registered_model_alias("digits", "champion", "3")  # as somebody does by hand
    assert ask("roll-back", "digits")[1]["model_version"] == "digits/2"
    client.set_registered_model_alias("digits", "champion", "3")
    client.delete_model_version("digits", "2")
    assert ask("roll-back", "digits")[1]["model_version"] == "digits/1"


def test_of_two_promotions_at_once_who_lost_is_told(
    ask: Ask, versions: dict[str, MlflowRun]
) -> None:
    ask("promote", "digits/1")
    uri, lost = versions["fair"].uri, 0
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(promote, uri, "digits", v, anyway="a test") for v in ("2", "3")]
    for one in both:
        if one.exception() is not None:
            assert "Somebody else moved champion of digits at the same time" in str(one.exception())
            lost += 1
    [model] = ask("list")[1]["models"]
    moves = model["history"]["champion"]
    assert model["aliases"]["champion"] in ("2", "3")
    assert len(moves) >= 3 - lost
    assert moves[0]["version"] == "1"


@pytest.mark.usefixtures("versions")
def test_an_alias_that_moves_while_versions_are_compared_stays(
    small_settings: Settings, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("promote", "digits/1")
    client = MlflowClient(f"sqlite:///{small_settings.storage}/mlflow.db")
    compare = registry_promotion._comparable

    def meanwhile(*arguments: Any) -> Any:
        client.set_registered_model_alias("digits", "champion", "3")
        return compare(*arguments)

    monkeypatch.setattr(registry_promotion, "_comparable", meanwhile)
    code, _, words = ask("promote", "digits/2")
    assert code == 2
    assert "to version 3, and it stays there" in words
    assert holder(small_settings) == "3"


def test_a_card_says_what_is_known_and_what_was_not_measured(
    small_settings: Settings, ask: Ask, tmp_path: Path
) -> None:
    folder, run = finished(small_settings, "mine", 0.8, **{"views.solarize_threshold": 99})
    run.tag("mlflow.source.git.commit", "abc123-dirty")
    ask("register", str(folder))
    client = MlflowClient(run.uri)

    def read() -> tuple[str, str]:
        version = client.get_model_version("digits", "1")
        [file] = Path(small_settings.storage).glob("mlartifacts/models/*/artifacts/README.md")
        return file.read_text(), str(version.description)

    card, description = read()
    assert card.startswith('---\nlicense: "unknown"\n')
    assert description.startswith("# digits\n")
    assert description in card
    for fact in (
        f"`{run.run_id}` (mine)", "Steps: 50", "abc123-dirty", "`git_diff.patch` of the run",
        "360 images, 10 classes (0: ", "1,437 images, 10 classes", "solarize_threshold 99",
        "| knn/top1 | 80.00% | 10.00% | while training: probe's kNN, k=20, temperature=0.1, of at",
        "| probe/alignment | not measured | not measured | |", "Not measured: kNN on all test im",
        "Licence of the weights: not stated by whoever registered it.",
        "| training.precision | fp32 |",
    ):  # fmt: skip
        assert fact in card, f"{fact} is not in {card}"

    pretrained, _ = open_encoder(str(folder), small_settings)
    record = {
        "scores": {"knn_top1": 0.91, "knn_top1_untrained": 0.5},
        "evaluation": "knn",
        "order": {"neighbors": 20, "temperature": 0.1},
        "data": {"train": {"digest": "a"}, "test": {"digest": "b"}},
        "weights": fingerprint(pretrained.encoder),
    }
    keep_evaluation(record, name="knn", reference="mine", storage=tmp_path, run=run)
    describe_version(run.uri, "digits", "1", "It won a contest.", {"evaluation": "x"})
    ask("register", str(folder), "--license", "CC-BY-4.0")
    card, description = read()
    assert card.startswith('---\nlicense: "CC-BY-4.0"\n')
    assert "| knn_top1 | 91.00% | 50.00% | kNN, k=20, temperature=0.1, train a, test b |" in card
    assert "Not measured: a linear classifier" in card
    assert description.startswith("It won a contest.\n\n# digits\n")
    assert description.count("# digits\n") == 1
    assert len(description) <= 5000
    ask("register", str(folder))
    assert "Licence of the weights: CC-BY-4.0." in read()[0]


def test_a_checkpoint_of_mid_run_has_none_of_the_final_scores(
    small_settings: Settings, ask: Ask
) -> None:
    folder, run = finished(small_settings, "mine", 0.8)
    ask("register", str(folder))
    half = folder / "local" / f"checkpoint_{STEP // 2:09d}"
    assert last_checkpoint(folder)[0] != half
    ask("register", str(half))
    [model] = ask("list")[1]["models"]
    assert [one["measures"] for one in model["versions"] if one["version"] == "2"] == [[]]
    card = str(MlflowClient(run.uri).get_model_version("digits", "2").description)
    assert "| knn/top1 | not measured | 10.00% |" in card
    assert "Steps: 25" in card


def test_best_and_averaged_weights_are_versions_of_their_own(
    small_settings: Settings, ask: Ask
) -> None:
    """Each with its own measures: the probe's of that step, and of those weights."""
    changes = {"training.keep_best": True, "training.average_decay": 0.9}
    folder, run = finished(small_settings, "mine", 0.8, **changes)
    settings = find_source(str(folder), small_settings.storage).settings
    state = build_state(settings, torch.device("cpu"))
    assert state.average is not None
    next(state.average.encoder.parameters()).add_(1)  # as they differ once it is trained
    for step, score in ((STEP // 2, 0.9), (STEP, 0.5)):
        state.step = step
        state.take_score(score, is_better=state.is_better(score))
        checkpoint = folder / "local" / f"checkpoint_{step:09d}"
        shutil.rmtree(checkpoint)
        save_checkpoint(checkpoint, state, settings)
        keep_if_best(Store(str(folder)), checkpoint)
        run.log(step, {"knn/top1": score / 2, "knn_average/top1": score / 3})
    orders = (
        (), ("--checkpoint", "best"), ("--weights", "average"), ("--weights", "average"),
        ("--checkpoint", "best", "--weights", "average"),
    )  # fmt: skip
    found = [ask("register", str(folder), *order)[1]["model_version"] for order in orders]
    assert found == ["digits/1", "digits/2", "digits/3", "digits/3", "digits/4"]
    opened = [open_encoder(f"models:/{version}", settings)[0] for version in found]
    places = ("", "/best", "/average", "/average", "/best/average")
    for registered, place in zip(opened, places, strict=True):
        named, _ = open_encoder(f"{folder}{place}", settings)
        assert fingerprint(registered.encoder) == fingerprint(named.encoder)
    [model] = ask("list")[1]["models"]
    scores = {one["version"]: one["scores"]["knn/top1"] for one in model["versions"]}
    assert scores == pytest.approx({"1": 0.25, "2": 0.45, "3": 0.5 / 3, "4": 0.3})
    card = str(MlflowClient(run.uri).get_model_version("digits", "4").description)
    assert "exponential moving average of those that were trained, of decay 0.9" in card
    assert "| knn/top1 | 30.00% |" in card


def test_what_was_not_kept_cannot_be_registered(small_settings: Settings, ask: Ask) -> None:
    folder, _ = finished(small_settings, "mine", 0.8)
    for option, way_out in (
        (("--checkpoint", "best"), "has kept no best checkpoint: train it with --training.keep"),
        (("--weights", "average"), "keeps no averaged weights: the run that wrote it had no"),
    ):
        code, _, words = ask("register", str(folder), *option)
        assert code == 2
        assert way_out in words
