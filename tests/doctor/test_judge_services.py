"""What the doctor says of storage, images and MLflow, from made-up facts."""

from dataclasses import replace
from typing import Any

import pytest

from bt_ray.doctor.examination import Examination, Orders
from bt_ray.doctor.finding import State
from bt_ray.doctor.images import ImageFacts
from bt_ray.doctor.judge_services import (
    judge_images,
    judge_services,
    judge_storage,
    judge_tracking,
)
from tests.doctor.facts import STORAGE, TRACKING


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        ({}, "good", ""),
        ({"write_mb_s": 12.0}, "note", "2 minutes"),
        ({"write_mb_s": 1.0}, "wrong", "23 minutes"),
        ({"read_mb_s": 0.0}, "wrong", "slow"),
        ({"small_write_ms": 900.0}, "note", "900 ms"),
        ({"small_read_ms": 9000.0}, "wrong", "9000 ms"),
        ({"fault": "Permission denied"}, "wrong", "(Permission denied): give it the permission"),
        ({"unseen": ("b",)}, "wrong", "what b wrote there: give a folder that all nodes mount"),
        ({"whole": False}, "wrong", "read something else"),
    ],
)
def test_storage(facts: dict[str, Any], state: State, words: str) -> None:
    finding = judge_storage("a", "/shared/runs", replace(STORAGE, **facts))
    assert finding.state == state
    assert words in finding.advice
    assert state == "good" or "/shared/runs" in finding.advice


def test_storage_that_hangs_is_wrong_and_its_keys_are_not_shown() -> None:
    finding = judge_storage("a", "s3://key:secret@bucket/runs?scheme=http", None)
    assert finding.state == "wrong"
    assert "s3://bucket/runs did not answer on a" in finding.advice
    assert "secret" not in finding.advice


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        (ImageFacts(kind="shards", num_files=2, read_mb_s=200.0), "good", ""),
        (ImageFacts(num_files=2, read_mb_s=2.0), "note", "prepare"),
        (ImageFacts(fault="nothing is there"), "wrong", "(nothing is there): mount it there"),
        (None, "wrong", "no answer in time"),
    ],
)
def test_images(facts: ImageFacts | None, state: State, words: str) -> None:
    finding = judge_images("a", "/data", facts)
    assert finding.state == state
    assert words in finding.advice


@pytest.mark.parametrize(
    ("facts", "state", "words"),
    [
        ({}, "good", ""),
        ({"answer_ms": None, "logged": False, "kept_file": False,
          "fault": "MLflow at http://mlflow:5000 does not answer as it should: refused"},
         "wrong", "refused. Start the server, or correct MLFLOW_TRACKING_URI"),
        ({"logged": False, "kept_file": False, "fault": "403"}, "wrong", "keep a run (403)"),
        ({"kept_file": False, "fault": "NoCredentials"}, "wrong", "no files of theirs (NoCred"),
        ({"answer_ms": 6000.0}, "note", "PostgreSQL"),
        ({"fault": "It cannot be deleted"}, "note", "It cannot be deleted."),
    ],
)  # fmt: skip
def test_mlflow(facts: dict[str, Any], state: State, words: str) -> None:
    finding = judge_tracking("http://mlflow:5000", replace(TRACKING, **facts))
    assert finding.state == state
    assert words in finding.advice


def test_mlflow_that_hangs_is_wrong() -> None:
    assert judge_tracking("http://mlflow:5000", None).state == "wrong"


@pytest.mark.parametrize(("storage", "state"), [("/runs", "good"), ("s3://bucket/runs", "note")])
def test_without_a_server_runs_are_recorded_beside_a_folder(storage: str, state: State) -> None:
    [finding] = judge_services(Examination(orders=Orders(storage=storage)))
    assert (finding.check, finding.state) == ("mlflow", state)
