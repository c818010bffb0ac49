"""Scores the encoders that compete: all on the same images, by the same method."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from bt_ray.config import Settings
from bt_ray.data.preparation.prepare import prepare_data
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.evaluation.features import Features, compute_features, place_encoder
from bt_ray.evaluation.frozen import Scores, score_frozen
from bt_ray.evaluation.hypersphere import alignment
from bt_ray.evaluation.images import load_images, load_view_pairs
from bt_ray.evaluation.knn import Knn, choose_neighbors
from bt_ray.evaluation.labelled import read_labels
from bt_ray.evaluation.linear import Linear
from bt_ray.evaluation.spectrum import rank_me
from bt_ray.model.inputs import normalize
from bt_ray.model.pretrained import Pretrained
from bt_ray.training.local import choose_device
from bt_ray.tuning.score import Score, read_score

_MOST_IMAGES, _BLOCK = 4096, 256


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Scores encoders on images that no trial was compared on, if there are any.

    `train`: labelled images that classes are learnt from; `test`: what is scored; `settings`: k,
    temperature and views.
    """

    settings: Settings
    train: ShardSet
    test: ShardSet
    score: Score
    most_shared: int = 0

    @property
    def identity(self) -> str:
        """Equal for two contests whose scores may be compared."""
        images = f"train {self.train.manifest.digest}, test {self.test.manifest.digest}"
        if self.score == "knn_top1":
            knn = self._knn
            return f"kNN, k={knn.neighbors}, temperature={knn.temperature:g}, {images}"
        return f"RankMe × cosine, {images}, views {self.settings.views}"

    def judge(self, pretrained: Pretrained) -> Scores:
        """The encoder's scores; the one named `self.score` decides.

        Raises: DataError if test images are among the training images.
        """
        device = choose_device(
            replace(self.settings, scaling=replace(self.settings.scaling, accelerator="auto"))
        )
        if self.score == "rankme_cosine":
            return self._unlabelled(pretrained, device)
        return score_frozen(
            pretrained,
            self.train,
            self.test,
            self._labelled,
            device=device,
            compute=compute_features,
            most_shared=self.most_shared,
        )

    def _labelled(self, train: Features, test: Features) -> Scores:
        return self._knn(train, test) | Linear(seed=0)(train, test)

    @cached_property
    def _knn(self) -> Knn:
        probe = self.settings.probe
        return Knn(probe.neighbors or choose_neighbors(read_labels(self.train)), probe.temperature)

    @torch.no_grad()
    def _unlabelled(self, pretrained: Pretrained, device: torch.device) -> Scores:
        """RankMe × cosine, of views that are drawn alike for all encoders."""
        px = pretrained.settings.views.image_px
        settings = replace(self.settings, views=replace(self.settings.views, image_px=px))
        table = self.test.read_share(0, 1, _MOST_IMAGES)
        pairs = load_view_pairs(table, settings, device)
        encoder = place_encoder(pretrained, device)
        plain, view_a, view_b = (
            torch.cat(
                [
                    encoder(normalize(block.to(device), settings.data)).float()
                    for block in part.split(_BLOCK)
                ]
            )
            for part in (load_images(table, px).pixels, pairs.view_a, pairs.view_b)
        )
        measures = {
            "held_out/rankme": rank_me(plain[:_MOST_IMAGES]),
            "held_out/alignment": alignment(view_a, view_b),
        }
        score = read_score(measures, "rankme_cosine")
        return {"rankme_cosine": np.nan if score is None else score}


def build_contest(settings: Settings, split: Settings, score: Score, most_shared: int) -> Contest:
    """The contest on the test images, or on the held-out ones where there are none with labels.

    Args:
      settings: as the user gave them, storage located.
      split: the same, with the held-out images as `data.test`.
    """
    chosen = split
    if score == "knn_top1" and settings.data.test is not None:
        whole = prepare_data(settings)
        if ShardSet.open(str(whole.data.test)).manifest.classes:
            chosen = whole
    return Contest(
        settings=settings,
        train=ShardSet.open(chosen.data.train),
        test=ShardSet.open(str(chosen.data.test)),
        score=score,
        most_shared=most_shared,
    )
