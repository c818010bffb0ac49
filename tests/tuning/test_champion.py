"""Who becomes the champion: only who beats the present one by more than another seed would."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from bt_ray.config import Settings, override, to_json
from bt_ray.evaluation.frozen import Scores
from bt_ray.model.pretrained import Pretrained
from bt_ray.tracking.mlflow import start_run
from bt_ray.training.launch import pretrain
from bt_ray.tuning.champion import Verdict, contend
from bt_ray.tuning.contest import Contest, build_contest
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.split import hold_out
from bt_ray.tuning.trial import TrialOrder, describe

pytestmark = pytest.mark.run


@pytest.fixture
def settings(small_settings: Settings) -> Settings:
    changes = {"scaling.workers": 0, "schedule.epochs": 1, "training.checkpoint_every_epochs": 1}
    return override(small_settings, changes)


def let_contend(settings: Settings, name: str, *, seeds: int) -> Verdict:
    """The only trial of a sweep of this name contends."""
    order = TrialOrder(
        name=name,
        settings=to_json(hold_out(settings)),
        folder=f"{settings.storage}/sweeps/{name}",
        storage=f"{settings.storage}/sweeps/{name}",
        score="knn_top1",
        study="sqlite://",
        parent=start_run(override(settings, {"name": name}), Path(settings.storage) / name)[0],
    )
    pretrain(order.trial_settings(0, {}), register=False, parent=order.parent)
    record = describe(order, 0, {}, {}, "finished")
    return contend(record, settings, SweepOrder(seeds=seeds), order)


def test_a_champion_is_beaten_by_more_than_the_spread_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    scores = {
        "one-000": 0.50, "one-000-seed1": 0.52, "two-000": 0.53, "two-000-seed1": 0.48,
        "three-000": 0.60, "three-000-seed1": 0.58, "four-000": 0.99,
    }  # fmt: skip

    def judge(self: Contest, pretrained: Pretrained) -> Scores:
        judged.append(pretrained.settings.name)
        return {"knn_top1": scores[pretrained.settings.name]}

    monkeypatch.setattr(Contest, "judge", judge)

    one = let_contend(settings, "one", seeds=2)
    assert one.is_champion
    assert one.champion is None
    two = let_contend(settings, "two", seeds=2)  # better by 0.03, but the spread is 0.035
    assert not two.is_champion
    assert two.spread == pytest.approx(0.05 / 2**0.5)
    assert "does not exceed the spread over 2 seeds" in two.sentence
    three = let_contend(settings, "three", seeds=2)
    assert three.is_champion
    assert three.champion == one.model_version
    assert three.champion_score == 0.50
    four = let_contend(settings, "four", seeds=1)
    assert not four.is_champion
    assert "--seeds 3" in four.sentence
    assert len(judged) == len(set(judged)) == 7  # each once, the champions too

    client = MlflowClient(f"sqlite:///{settings.storage}/mlflow.db")
    champion = client.get_model_version_by_alias("barlow-small", "champion")
    assert f"barlow-small/{champion.version}" == three.model_version
    assert champion.tags["compared_with"] == one.model_version
    assert champion.tags["compared_score"] == "0.5000"
    assert champion.tags["seed_scores"] == "0.6000, 0.5800"
    assert "exceeds the spread" in str(champion.description)


def test_a_champion_that_was_scored_otherwise_is_scored_anew(settings: Settings) -> None:
    one = let_contend(settings, "one", seeds=1)
    other = override(settings, {"probe.neighbors": 3})
    two = let_contend(other, "two", seeds=1)
    assert two.champion == one.model_version
    # The same weights, by the other k: as the second one's own.
    assert two.champion_score == two.scores["knn_top1"] != one.scores["knn_top1"]


def test_the_contest_is_on_test_images_if_there_are_any(settings: Settings) -> None:
    split = hold_out(settings)
    contest = build_contest(settings, split, "knn_top1", 0)
    assert (contest.train.root, contest.test.root) == (settings.data.train, settings.data.test)
    bare = override(settings, {"data.test": None})
    contest = build_contest(bare, split, "knn_top1", 0)
    assert (contest.train.root, contest.test.root) == (split.data.train, split.data.test)
