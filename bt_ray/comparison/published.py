"""What the paper publishes of each method: its Tables 1 to 3, in per cent as printed there.

All are of ResNet-50 pretrained on ImageNet, each for as long as its own authors did. A method that
a table does not have is not in it here. Some of the scores are others' than the methods' authors':
the paper says which.

Source: Zbontar et al. 2021, Tables 1 (linear), 2 (semi-supervised, fine-tuned) and 3 (transfer,
linear).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bt_ray.config import Method, Settings


@dataclass(frozen=True, kw_only=True)
class Published:
    """A method's row of each table, in per cent; none where the paper has no number."""

    top1: float | None = None
    """Table 1."""
    top5: float | None = None
    semi_1pct_top1: float | None = None
    """Table 2, 1 % of the labels."""
    semi_10pct_top1: float | None = None
    semi_1pct_top5: float | None = None
    semi_10pct_top5: float | None = None
    places205: float | None = None
    """Table 3, top-1."""
    voc07: float | None = None
    """Table 3, mAP."""
    inat18: float | None = None
    """Table 3, top-1."""


HEAD: Mapping[str, str] = {
    "top1": "Table 1: top-1",
    "top5": "top-5",
    "semi_1pct_top1": "Table 2: 1 % top-1",
    "semi_10pct_top1": "10 % top-1",
    "semi_1pct_top5": "1 % top-5",
    "semi_10pct_top5": "10 % top-5",
    "places205": "Table 3: Places-205",
    "voc07": "VOC07",
    "inat18": "iNat18",
}
"""What to write above each field of `Published`."""
TABLES: Mapping[Method, Published] = {
    "barlow_twins": Published(
        top1=73.2, top5=91.0,
        semi_1pct_top1=55.0, semi_10pct_top1=69.7, semi_1pct_top5=79.2, semi_10pct_top5=89.3,
        places205=54.1, voc07=86.2, inat18=46.5,
    ),
    "simclr": Published(
        top1=69.3, top5=89.0,
        semi_1pct_top1=48.3, semi_10pct_top1=65.6, semi_1pct_top5=75.5, semi_10pct_top5=87.8,
        places205=52.5, voc07=85.5, inat18=37.2,
    ),
    "moco_v2": Published(top1=71.1, top5=90.1, places205=51.8, voc07=86.4, inat18=38.6),
    "simsiam": Published(top1=71.3),
    "byol": Published(
        top1=74.3, top5=91.6,
        semi_1pct_top1=53.2, semi_10pct_top1=68.8, semi_1pct_top5=78.4, semi_10pct_top5=89.0,
        places205=54.0, voc07=86.6, inat18=47.6,
    ),
    "swav": Published(top1=71.8, places205=52.8, voc07=86.4, inat18=39.5),
    "pirl": Published(top1=63.6, semi_1pct_top5=57.2, semi_10pct_top5=83.8),
}  # fmt: skip
"""By method; SwAV is the one without multi-crop, of which Table 2 has none."""
SWAV_MULTI_CROP = Published(
    top1=75.3,
    semi_1pct_top1=53.9, semi_10pct_top1=70.2, semi_1pct_top5=78.5, semi_10pct_top5=89.9,
    places205=56.7, voc07=88.9, inat18=48.6,
)  # fmt: skip


def published_of(settings: Settings) -> Published:
    """The row of the settings' method, SwAV's with multi-crop if they have smaller views."""
    method = settings.objective.method
    if method == "swav" and settings.views.small_count > 0:
        return SWAV_MULTI_CROP
    return TABLES.get(method, Published())
