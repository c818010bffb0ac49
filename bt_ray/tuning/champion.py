"""Whether a sweep's best encoder becomes the champion: the one that all others have to beat.

It is registered in any case. The alias `champion` passes to it if its score exceeds the present
champion's by more than the standard deviation of runs that differ in nothing but the seed: less
than that, another seed would have done as well. Both are scored on the same images in the same way.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from bt_ray.checkpoints.checkpoint import last_checkpoint
from bt_ray.config import Settings, from_json
from bt_ray.errors import BtRayError, NonFiniteLossError, RunFailedError
from bt_ray.evaluation.encoder import open_encoder
from bt_ray.evaluation.frozen import Scores
from bt_ray.json_files import read_json, write_json
from bt_ray.model.pretrained import load_folder
from bt_ray.storage.working_copy import folder_of
from bt_ray.tracking.mlflow import MlflowRun
from bt_ray.tracking.registry import register_encoder
from bt_ray.tracking.registry_alias import CHAMPION, describe_version, find_champion, give_alias
from bt_ray.training.launch import pretrain
from bt_ray.tuning.contest import Contest, build_contest
from bt_ray.tuning.order import SweepOrder
from bt_ray.tuning.records import TrialRecord
from bt_ray.tuning.trial import TrialOrder

_SCORES = "test_scores.json"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of a contest with the champion.

    `model_version`: the sweep's best encoder; `score`: name of the score that decides; `scores`:
    the encoder's, on the test images; `seed_scores`: that score of its settings with each seed, its
    own first; `spread`: their standard deviation, none of a single one; `champion`: the version
    that it had to beat, if there was one; `sentence`: all this in words.
    """

    model_version: str
    score: str
    scores: Scores
    seed_scores: tuple[float, ...]
    spread: float | None
    champion: str | None
    champion_score: float | None
    is_champion: bool
    sentence: str


class _Book:
    """Keeps the scores of encoders in a file, so that each is computed once."""

    def __init__(self, file: Path, contest: Contest) -> None:
        self._file, self._contest = file, contest

    def score(self, name: str, folder: Path) -> Scores:
        """Scores of the run in this folder."""
        kept = read_json(self._file) or {}
        of_contest: dict[str, Scores] = kept.setdefault(self._contest.identity, {})
        if name not in of_contest:
            checkpoint, _ = last_checkpoint(folder)
            if checkpoint is None:
                raise RunFailedError(f"The run in {folder} has no checkpoint to be judged.")
            of_contest[name] = self._contest.judge(load_folder(checkpoint))
            write_json(self._file, kept)
        return of_contest[name]


def contend(
    best: TrialRecord, settings: Settings, order: SweepOrder, trial_order: TrialOrder
) -> Verdict:
    """Registers the best trial's encoder, and gives it the alias `champion` if it wins.

    Args:
      settings: the user's, with the storage located.
    Raises: DataError if test images are among the training images; TrackingError.
    """
    run_folder = trial_order.run_folder(best.number)
    own = trial_order.trial_settings(best.number, best.changes)
    contest = build_contest(
        settings, from_json(trial_order.settings), trial_order.score, order.most_shared
    )
    book = _Book(Path(trial_order.folder) / _SCORES, contest)
    scores = book.score(best.name, run_folder)
    checkpoint, _ = last_checkpoint(run_folder)
    assert checkpoint is not None  # it was judged
    run = MlflowRun(trial_order.parent.uri, str(best.run_id))
    version = register_encoder(run, checkpoint, own)
    seed_scores, trouble = _score_seeds(own, order.seeds, trial_order, book, contest)
    verdict = _decide(
        own.registered_model, version, contest, scores,
        (scores[contest.score], *seed_scores), trouble, trial_order.parent.uri, settings,
    )  # fmt: skip
    if verdict.is_champion:
        give_alias(run.uri, own.registered_model, version)
    describe_version(
        run.uri, own.registered_model, version, verdict.sentence, _tags(verdict, contest)
    )
    run.log(0, {f"eval/{name}": value for name, value in scores.items()})
    return verdict


def _score_seeds(
    own: Settings, seeds: int, trial_order: TrialOrder, book: _Book, contest: Contest
) -> tuple[tuple[float, ...], str | None]:
    """Scores of the same settings with further seeds; what went wrong with one, if anything did."""
    found = list[float]()
    for more in range(1, seeds):
        training = replace(own.training, seed=own.training.seed + more)
        again = replace(own, name=f"{own.name}-seed{training.seed}", training=training)
        try:
            pretrain(again, register=False, parent=trial_order.parent)
        except (NonFiniteLossError, RunFailedError) as error:
            return tuple(found), f"Seed {training.seed} failed: {error}"
        found.append(book.score(again.name, folder_of(again.storage) / again.name)[contest.score])
    return tuple(found), None


def _decide(
    model: str,
    version: str,
    contest: Contest,
    scores: Scores,
    seed_scores: tuple[float, ...],
    trouble: str | None,
    uri: str,
    settings: Settings,
) -> Verdict:
    spread = statistics.stdev(seed_scores) if len(seed_scores) > 1 and trouble is None else None
    mine = scores[contest.score]
    present = find_champion(uri, model)
    theirs, obstacle = None, None
    if present is not None and present.version != version:
        known = present.tags.get("evaluation") == contest.identity and present.tags.get("score")
        try:
            theirs = float(known) if known else _judge_champion(model, contest, settings)
        except BtRayError as error:
            obstacle = f"The present champion cannot be scored: {error}"
    if present is None:
        wins, why = True, "There was no champion before."
    elif present.version == version:
        wins, why = True, "It is the champion already."
    elif theirs is None:
        wins, why = False, str(obstacle)
    elif spread is None:
        wins = False
        why = trouble or "How much another seed changes is not known of one seed; give --seeds 3."
    else:
        wins = mine - theirs > spread
        why = (
            f"Version {present.version} scores {theirs:.4f}; the difference of "
            f"{mine - theirs:+.4f} {'exceeds' if wins else 'does not exceed'} the spread over "
            f"{len(seed_scores)} seeds, {spread:.4f}."
        )
    return Verdict(
        model_version=f"{model}/{version}",
        score=contest.score,
        scores=scores,
        seed_scores=seed_scores,
        spread=spread,
        champion=None if present is None else f"{model}/{present.version}",
        champion_score=theirs,
        is_champion=wins,
        sentence=f"{contest.score} {mine:.4f} ({contest.identity}). {why}",
    )


def _judge_champion(model: str, contest: Contest, settings: Settings) -> float:
    pretrained, _ = open_encoder(f"models:/{model}@{CHAMPION}", settings)
    return contest.judge(pretrained)[contest.score]


def _tags(verdict: Verdict, contest: Contest) -> dict[str, str]:
    """What is written on the version, for programs."""
    tags = {
        "evaluation": contest.identity,
        "score": repr(verdict.scores[contest.score]),
        "seed_scores": ", ".join(f"{score:.4f}" for score in verdict.seed_scores),
        "spread": "unknown" if verdict.spread is None else f"{verdict.spread:.4f}",
        "compared_with": verdict.champion or "none",
        "compared_score": "none" if verdict.champion_score is None
        else f"{verdict.champion_score:.4f}",
        "became_champion": str(verdict.is_champion).lower(),
    }  # fmt: skip
    return tags | {name: f"{value:.4f}" for name, value in verdict.scores.items()}
