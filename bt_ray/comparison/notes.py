"""What a reader must know of a comparison's figures, in sentences."""

from bt_ray.ablations.result import Result
from bt_ray.comparison.contrast import WEAK_PAIRS
from bt_ray.comparison.outcome import MARGIN, Outcome
from bt_ray.comparison.study import LABEL_PERCENT
from bt_ray.cpu.count import available_cpus
from bt_ray.evaluation.few_labels import DRAWS


def notes(outcome: Outcome) -> list[str]:
    """Sentences on how it was made, how to read it, and what is missing."""
    found = [_conditions(outcome), _budget(outcome), _scoring(outcome), _differences(outcome)]
    found += [_claims(outcome), _costs(outcome), _published(outcome), _edges(outcome)]
    return [note for note in (*found, *_failures(outcome), _missing(outcome)) if note]


def _conditions(outcome: Outcome) -> str:
    """Same data, epochs and encoder."""
    settings = outcome.settings
    images = {result.num_images for row in outcome.rows for result in row.results}
    many = " or ".join(f"{number:,}" for number in sorted(images)) or "the same"
    return (
        f"Each method trains {settings.model.encoder} for {settings.schedule.epochs} epochs of "
        f"{many} images in batches of {settings.data.global_batch}, from the same first weights "
        "and in the same order, with the projector, predictor, views and rates of biases that are "
        f"its own. Scores are of test images, mean ± standard deviation over {_seeds(outcome)}, in "
        "per cent."
    )


def _budget(outcome: Outcome) -> str:
    """Who was given how many runs."""
    multiples = ", ".join(f"{multiple:g}" for multiple in outcome.multiples)
    if len(outcome.multiples) == 1:
        return f"No rate was searched: each method has {multiples} times its preset's rate."
    return (
        f"Each method had the same budget: {len(outcome.multiples)} runs, with {multiples} times "
        "its preset's rate of weights, on nine tenths of the training images, of which the best by "
        "kNN of the last tenth was chosen (RankMe without labels); then "
        f"{outcome.plan.seeds} of that rate on all training images. Nothing else was searched."
    )


def _scoring(outcome: Outcome) -> str:
    """How the classifiers are fitted."""
    if not any(row.results for row in outcome.rows):
        return ""
    if not any(row.scores("knn_top1") for row in outcome.rows):
        return "Without labels there are no scores but RankMe, which ranks no methods."
    neighbors = outcome.settings.probe.neighbors or "as the images of a class allow"
    return (
        f"kNN with k = {neighbors}; linear protocol `{outcome.plan.linear}`. "
        f"{LABEL_PERCENT:g} % of labels: a linear classifier on the frozen encoder that knows the "
        f"labels of {LABEL_PERCENT:g} % of each class, one image at least, mean of {DRAWS} draws; "
        "the paper's Table 2 fine-tunes the encoder, too, so that its numbers are of another task."
    )


def _differences(outcome: Outcome) -> str:
    """How far p can be trusted."""
    if len(outcome.methods) == 1:
        return ""
    pairs = outcome.plan.seeds
    words = (
        f"Differences from {outcome.methods[0].case.label} are paired by seed, in points, with p "
        "of a two-sided paired t-test, not corrected for the number of methods."
    )
    if pairs == 1:
        return words + " With one seed there is no p."
    if pairs <= WEAK_PAIRS:
        freedom = (
            f"{pairs - 1} degree{'s' * (pairs > 2)} of freedom {'says' if pairs == 2 else 'say'}"
        )
        return words + (
            f" With {pairs} seeds it is weak: {freedom} next to nothing, and a small p may be "
            "chance."
        )
    return words


def _claims(outcome: Outcome) -> str:
    """What `claims nothing` means."""
    if outcome.untrained is None:
        return ""
    return (
        f"The untrained encoder is the same for all methods. `claims nothing`: kNN is less than "
        f"{100 * MARGIN:g} points above it, so that the row's place says nothing of the method."
    )


def _costs(outcome: Outcome) -> str:
    """What speed and memory are of."""
    side = outcome.plan.at_once
    if outcome.settings.scaling.min_workers:
        where = "by Ray's workers; memory is the first worker's"
    else:
        threads = max(1, available_cpus() // side)
        where = f"{side} run{'s' * (side > 1)} at a time, {threads} CPU thread{'s' * (threads > 1)}"
        where += (
            " each; peak memory is the most that the run's own process had resident, Python and "
            "libraries included (on a GPU: had allocated there)"
        )
    return f"Speed is of training steps alone, {where}. Minutes a run include scoring."


def _published(outcome: Outcome) -> str:
    """Why published scores are not to be compared with ours."""
    note = (
        "Published scores are of ResNet-50 pretrained on ImageNet (Zbontar et al. 2021, Tables 1 "
        "to 3): they say in which order the methods came there, not what they should reach here."
    )
    if any(row.case.changes.get("objective.method") == "swav" for row in outcome.methods):
        note += " SwAV without multi-crop is not in Table 2."
    return note


def _edges(outcome: Outcome) -> str:
    """Whose best rate is the last one that was tried."""
    names = [row.case.label for row in outcome.methods if outcome.is_at_edge(row)]
    if not names:
        return ""
    return (
        f"`edge`: the best rate of {', '.join(names)} is the lowest or highest that was tried; a "
        "better one may lie beyond (`--rates`)."
    )


def _failures(outcome: Outcome) -> list[str]:
    """Why there are no scores of a run."""
    return [
        f"{row.case.label}, {_rate(result)}{'searched' if is_search else f'seed {result.seed}'}: "
        f"{result.failure}"
        for row, result, is_search in outcome.failures
    ]


def _rate(result: Result) -> str:
    kind = result.settings.get("optimizer.kind", "lars")
    rate = result.settings.get(f"optimizer.{'weight_rate' if kind == 'lars' else 'adamw_rate'}")
    return f"rate {rate:g}, " if rate is not None else ""


def _missing(outcome: Outcome) -> str:
    """How many runs are to come."""
    if not (many := outcome.num_missing):
        return ""
    return f"{many} run{'s' * (many > 1)} are still to be made; the same command goes on with them."


def _seeds(outcome: Outcome) -> str:
    many = outcome.plan.seeds
    return f"{many} seed{'s' * (many > 1)}"
