"""What one run of an ablation came to: a file of JSON, written as soon as it is known."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bt_ray.config import DataSettings, Settings, TrainingSettings, flatten, shaping
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.errors import DataError

_KEY_DIGITS = 16
_PLACES = ("data.train", "data.test")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One trained and scored encoder, or why there is none."""

    key: str
    """Equal for two runs whose results cannot differ (`key_of`)."""
    settings: dict[str, Any]
    """What shaped the result, by dotted key, but for where the images lay."""
    scores: dict[str, float]
    """Shares, 0 to 1, but for RankMe; those that end in `_untrained` are of the first weights."""
    failure: str | None
    """Why there are no scores, such as a loss that was not finite."""
    num_images: int
    """Training images of one epoch."""
    seconds: float
    """Of training and scoring, in the last go at it."""
    revision: str
    """Of the code."""
    images_per_s: float | None = None
    """Of its training steps; none where nothing was trained, or before this was kept."""
    peak_memory_mb: float | None = None
    """The most memory, in MiB, that training took (`measures.peak_memory_mb`)."""
    curves: dict[str, list[list[float]]] = field(default_factory=dict)
    """By the score's name: [epoch, score] of each probe, the first one before training."""

    @property
    def seconds_a_step(self) -> float | None:
        """Of training, for a global batch."""
        if not self.images_per_s:
            return None
        return float(self.settings["data.global_batch"]) / self.images_per_s

    @property
    def seed(self) -> int:
        """Of weights, order and views."""
        return int(self.settings["training.seed"])


def key_of(settings: Settings, scoring: str) -> str:
    """What names the result of these settings: a digest of all that shapes it.

    The images and labels count by what they are, wherever and in whatever files they lie, and a
    setting only where it is not its default: a result is found again on another machine, and by a
    later version that has more settings.

    Args:
      settings: `data.train` and `data.test` name shards.
      scoring: how the encoder is scored.
    """
    facts = {key: v for key, v in plain_settings(settings).items() if v != _default_values()[key]}
    roots = [root for root in (settings.data.train, settings.data.test) if root is not None]
    checksums = [[s.content for s in ShardSet.open(root).manifest.shards] for root in roots]
    text = json.dumps([facts, checksums, scoring], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]


def plain_settings(settings: Settings) -> dict[str, Any]:
    """What shapes the result, as JSON has it, without places."""
    facts = {key: value for key, value in shaping(settings).items() if key not in _PLACES}
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


@cache
def _default_values() -> dict[str, Any]:
    """Every setting's default, as JSON has it, those of all methods included."""
    training = TrainingSettings(precision="fp32")  # the default when the first results were made
    default = Settings(name="default", data=DataSettings(train=""), training=training)
    plain: dict[str, Any] = json.loads(json.dumps(flatten(default)))
    return plain


def keep_result(result: Result, folder: Path) -> Path:
    """The result's file, whole or not there at all."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{result.key}.json"
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
    unfinished.replace(file)
    return file


def read_result(folder: Path, key: str, settings: Settings) -> Result | None:
    """The result of this key; none if it is not there, or is of other settings after all.

    The latter is one of a version with other defaults.

    Raises: DataError if its file is broken.
    """
    file = folder / f"{key}.json"
    if not file.is_file():
        return None
    try:
        result = Result(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file} holds no result ({error}); remove it, and its run is made again."
        ) from error
    wanted = plain_settings(settings)
    same = all(wanted[name] == v for name, v in result.settings.items() if name in wanted)
    return result if same else None
