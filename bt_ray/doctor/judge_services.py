"""What is good and wrong about storage, images and MLflow; computed from facts alone."""

from bt_ray.data.location import public_name
from bt_ray.doctor.examination import Examination
from bt_ray.doctor.finding import Finding, State
from bt_ray.doctor.images import ImageFacts
from bt_ray.doctor.storage import StorageFacts
from bt_ray.doctor.tracking import TrackingFacts

_SLOWEST_MB_S, _SLOW_MB_S = 5.0, 30.0
"""A checkpoint of ResNet-50 with a projector of 8192 (1.4 GB) takes five minutes at the first."""
_SLOW_FILE_MS, _SLOWEST_FILE_MS = 500.0, 5000.0
_SLOW_IMAGES_MB_S = 20.0
_SLOW_ANSWER_MS = 2000.0


def judge_services(examination: Examination) -> list[Finding]:
    """Findings about all that nodes write to and read from."""
    orders = examination.orders
    findings = [
        judge_storage(place, str(orders.storage), facts)
        for place, facts in examination.storage.items()
    ]
    findings += [
        judge_images(place, str(orders.images), facts)
        for place, facts in examination.images.items()
    ]
    if orders.tracking_uri is not None:
        findings.append(judge_tracking(public_name(orders.tracking_uri), examination.tracking))
    elif orders.storage is not None:
        findings.append(judge_no_server(orders.storage))
    return findings


def judge_storage(place: str, storage: str, facts: StorageFacts | None) -> Finding:
    """Whether a node can keep runs in the storage."""
    shown = public_name(storage)
    if facts is None:
        return _storage(
            place, "no answer in time", "wrong",
            f"{shown} did not answer on {place} in time: see that its server or mount is up and "
            "reached from there.",
        )  # fmt: skip
    if facts.fault is not None:
        return _storage(
            place, facts.fault, "wrong",
            f"{place} cannot write to {shown} and read it again ({facts.fault}): give it the "
            "permission, credentials, room or mount, or choose another --storage.",
        )  # fmt: skip
    found = (
        f"writes {facts.write_mb_s or 0:,.0f} MB/s, reads {facts.read_mb_s or 0:,.0f} MB/s, "
        f"a small file in {facts.small_write_ms or 0:.3g} and {facts.small_read_ms or 0:.3g} ms"
    )
    if facts.unseen:
        return _storage(
            place, found, "wrong",
            f"{place} does not see in {shown} what {', '.join(facts.unseen)} wrote there: give a "
            "folder that all nodes mount, or an object store (s3://, gs://).",
        )  # fmt: skip
    if not facts.whole:
        return _storage(
            place, found, "wrong",
            f"{place} read something else from {shown} than it wrote: do not trust that storage "
            "before its disks and its cache are checked.",
        )  # fmt: skip
    return _storage(place, found, *_judge_rates(place, shown, facts))


def _judge_rates(place: str, shown: str, facts: StorageFacts) -> tuple[State, str]:
    rate = min(facts.write_mb_s or 0.0, facts.read_mb_s or 0.0)
    wait_ms = max(facts.small_write_ms or 0.0, facts.small_read_ms or 0.0)
    if rate >= _SLOW_MB_S and wait_ms < _SLOW_FILE_MS:
        return "good", ""
    is_wrong = rate < _SLOWEST_MB_S or wait_ms >= _SLOWEST_FILE_MS
    advice = (
        f"{shown} is slow from {place} ({rate:.3g} MB/s, {wait_ms:.0f} ms for a small file), so a "
        "checkpoint of 1.4 GB takes "
        f"{1400 / max(rate, 0.01) / 60:.0f} minutes: choose a faster --storage, one in the nodes' "
        "own region, or save less often (--training.checkpoint-every-minutes)."
    )
    return ("wrong" if is_wrong else "note"), advice


def _storage(place: str, found: str, state: State, advice: str) -> Finding:
    return Finding(check="storage", place=place, found=found, state=state, advice=advice)


def judge_images(place: str, name: str, facts: ImageFacts | None) -> Finding:
    """Whether a node reaches the images."""
    shown = public_name(name)
    fault = "no answer in time" if facts is None else facts.fault
    if facts is None or fault is not None:
        return Finding(
            check="images", place=place, found=str(fault), state="wrong",
            advice=f"{place} cannot read {shown} ({fault}): mount it there, give the node "
            "credentials, or name another --data.",
        )  # fmt: skip
    if facts.read_mb_s is None:
        return Finding(check="images", place=place, found=f"{shown} is {facts.kind}")
    found = f"{facts.kind}, read at {facts.read_mb_s:,.0f} MB/s"
    if facts.read_mb_s >= _SLOW_IMAGES_MB_S:
        return Finding(check="images", place=place, found=found)
    return Finding(
        check="images", place=place, found=found, state="note",
        advice=f"{place} reads {shown} at {facts.read_mb_s:.3g} MB/s, some "
        f"{facts.read_mb_s * 9:.0f} images of ImageNet a second: prepare shards (`python -m "
        "pipelines.prepare`) in a faster place.",
    )  # fmt: skip


def judge_tracking(shown: str, facts: TrackingFacts | None) -> Finding:
    """Whether runs can be recorded on the MLflow server."""
    if facts is None:
        return _tracking(
            shown, "no answer in time", "wrong",
            f"MLflow at {shown} did not answer in time: start it, correct MLFLOW_TRACKING_URI, or "
            "let this machine through to it.",
        )  # fmt: skip
    if facts.fault is not None and facts.answer_ms is None:
        return _tracking(
            shown, "does not answer", "wrong",
            f"{_sentence(facts.fault)} Start the server, or correct MLFLOW_TRACKING_URI and "
            "MLFLOW_TRACKING_USERNAME and _PASSWORD.",
        )  # fmt: skip
    found = f"answers in {facts.answer_ms or 0:.0f} ms"
    if not facts.logged:
        return _tracking(
            shown, f"{found}, keeps no run", "wrong",
            f"MLflow at {shown} answers, and refuses to keep a run ({facts.fault or 'it is lost'}):"
            " give the user leave to write, or see its database.",
        )  # fmt: skip
    if not facts.kept_file:
        return _tracking(
            shown, f"{found}, keeps runs, no files", "wrong",
            f"MLflow at {shown} keeps runs, and no files of theirs ({facts.fault or 'it is lost'}):"
            " start it with --artifacts-destination, or give this machine what its artifact store "
            "demands.",
        )  # fmt: skip
    found += ", keeps runs and files"
    if (facts.answer_ms or 0) > _SLOW_ANSWER_MS:
        advice = f"MLflow at {shown} is slow to answer: give it a database such as PostgreSQL."
        return _tracking(shown, found, "note", advice)
    if facts.fault is not None:
        return _tracking(shown, found, "note", _sentence(facts.fault))
    return _tracking(shown, found, "good", "")


def judge_no_server(storage: str) -> Finding:
    """Whether runs can be recorded beside the storage, where no server is named."""
    found = "no server is named"
    if "://" not in storage:
        return _tracking("storage", f"{found}: runs are recorded in an SQLite file", "good", "")
    return _tracking(
        "MLFLOW_TRACKING_URI", found, "note",
        f"Without an MLflow server each run in {public_name(storage)} keeps its records for "
        "itself, and there is no model registry: name one by MLFLOW_TRACKING_URI.",
    )  # fmt: skip


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _tracking(place: str, found: str, state: State, advice: str) -> Finding:
    return Finding(check="mlflow", place=place, found=found, state=state, advice=advice)
