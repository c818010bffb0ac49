"""What is measured of the twins while they train: kNN, signs of collapse, pictures' arrays."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.distributed.collectives import gather_rows
from bt_ray.errors import NonFiniteLossError
from bt_ray.evaluation.correlation import cross_correlation
from bt_ray.evaluation.hypersphere import alignment, uniformity
from bt_ray.evaluation.images import LabelledImages, ViewPairs, load_images, load_view_pairs
from bt_ray.evaluation.knn import knn_top1
from bt_ray.evaluation.labelled import digest, read_labels
from bt_ray.evaluation.spectrum import eigenvalues, mean_correlation, mean_deviation, rank_me
from bt_ray.methods.learner import Probing
from bt_ray.model.inputs import to_input
from bt_ray.model.twins import Twins
from bt_ray.precision import autocast

SHARED_IMAGES = "knn/held_out_in_training"
"""Measure: held-out images that are training images; there is none if none are."""
_BLOCK = 512
_SPECTRUM_ROWS = 4096
_MOST_PAIRS = 1024
_CORRELATED = 256


@dataclass(frozen=True)
class Probe:
    """Encodes fixed images with all workers and measures representations and embeddings.

    The twins work as they would for a user, with batch norm's running statistics; C thus is not
    quite that of a training step. Labels alone decide whether kNN is among the measures.
    """

    settings: Settings
    bank: LabelledImages
    queries: LabelledImages | None
    pairs: ViewPairs
    device: torch.device
    query_pairs: ViewPairs | None = None
    """Of held-out images that have no labels."""

    @torch.no_grad()
    def __call__(self, twins: Twins) -> Probing:
        """What was found; the same on every worker, and `twins` as they were.

        The arrays are `cross_correlation`, (d, d), C of the embeddings' first d = min(D, 256)
        dimensions, since D × D would be too much to hold and to look at; and `eigenvalues`, (F,),
        of the representations' covariance, descending, sum 1.

        Raises: NonFiniteLossError if the weights make representations that are not finite.
        """
        was_training = twins.training
        twins.eval()
        bank = self._gather(self._represent(twins, self.bank.pixels), self.bank.rows)
        if not bank.isfinite().all():
            raise NonFiniteLossError(
                "The loss was finite until now, and the step after it made weights whose "
                "representations are not. The last checkpoint is kept. Start a run of another name "
                "with a lower optimizer.weight_rate, or with training.precision=bf16 or fp32."
            )
        sample = bank[:_SPECTRUM_ROWS]
        views = [self._represent(twins, v) for v in (self.pairs.view_a, self.pairs.view_b)]
        z_a, z_b = (self._gather(self._embed(twins, v), self.pairs.rows) for v in views)
        view_a, view_b = (self._gather(v, self.pairs.rows) for v in views)
        measures = {
            "probe/rankme": rank_me(sample),
            "probe/mean_deviation": mean_deviation(sample),
            "probe/mean_correlation": mean_correlation(sample),
            "probe/alignment": alignment(view_a, view_b),
            "probe/uniformity": uniformity(sample),
        }
        top1 = self._knn(twins, bank)
        if top1 is not None:
            measures["knn/top1"] = top1
            if self._num_shared:
                measures[SHARED_IMAGES] = float(self._num_shared)
        measures |= self._held_out(twins)
        twins.train(was_training)
        return Probing(
            measures=measures,
            arrays={
                "cross_correlation": cross_correlation(z_a, z_b).float().cpu().numpy(),
                "eigenvalues": eigenvalues(sample).float().cpu().numpy(),
            },
        )

    def _knn(self, twins: Twins, bank: Tensor) -> float | None:
        """Top-1 of the queries; None unless every image of both sets has a label."""
        if self.queries is None:
            return None
        bank_labels = self._gather(self.bank.labels, self.bank.rows)
        query_labels = self._gather(self.queries.labels, self.queries.rows)
        if (bank_labels < 0).any() or (query_labels < 0).any():
            return None
        return knn_top1(
            bank,
            bank_labels,
            self._gather(self._represent(twins, self.queries.pixels), self.queries.rows),
            query_labels,
            neighbors=self.settings.probe.neighbors,
            temperature=self.settings.probe.temperature,
        )

    @cached_property
    def _num_shared(self) -> int:
        """How many held-out images are among the training images, pixel for pixel as probed."""
        if self.queries is None:
            return 0
        bank = self._gather(_digests(self.bank.pixels), self.bank.rows)
        queries = self._gather(_digests(self.queries.pixels), self.queries.rows)
        return int(torch.isin(queries, bank).sum())

    def _held_out(self, twins: Twins) -> dict[str, float]:
        """Rank and alignment of held-out images without labels, for which there is no kNN."""
        if self.queries is None or self.query_pairs is None:
            return {}
        sample = self._gather(self._represent(twins, self.queries.pixels), self.queries.rows)
        view_a, view_b = (
            self._gather(self._represent(twins, view), self.query_pairs.rows)
            for view in (self.query_pairs.view_a, self.query_pairs.view_b)
        )
        return {
            "held_out/rankme": rank_me(sample[:_SPECTRUM_ROWS]),
            "held_out/alignment": alignment(view_a, view_b),
        }

    def _represent(self, twins: Twins, pixels: Tensor) -> Tensor:
        """float32 (n, F) representations of this worker's images."""
        with autocast(self.settings.training, self.device):
            parts = [
                twins.encoder(to_input(block.to(self.device), self.settings))
                for block in pixels.split(_BLOCK)
            ]
        return torch.cat(parts).float()

    def _embed(self, twins: Twins, representations: Tensor) -> Tensor:
        """float32 (n, d), the first d = min(D, 256) dimensions of this worker's embeddings."""
        with autocast(self.settings.training, self.device):
            embeddings: Tensor = twins.projector(representations)
        return embeddings[:, :_CORRELATED].float()

    def _gather(self, mine: Tensor, rows: Tensor) -> Tensor:
        """All workers' `mine` in the order of the data set, however many shared it."""
        order = gather_rows(rows.to(self.device)).argsort()
        return gather_rows(mine.to(self.device))[order]


def _digests(pixels: Tensor) -> Tensor:
    """int64 (n,), 64 bits of each image's pixels."""
    found = [digest(image.numpy().tobytes()) for image in pixels.cpu()]
    return torch.from_numpy(np.array(found, np.uint64).view(np.int64))


def build_probe(
    settings: Settings, device: torch.device, *, rank: int = 0, world_size: int = 1
) -> Probe:
    """A probe over this worker's share of the training images and the held-out ones."""
    test = settings.data.test
    bank = ShardSet.open(settings.data.train).read_share(
        rank, world_size, settings.probe.bank_images
    )
    queries, query_pairs = None, None
    if test is not None:
        held_out = ShardSet.open(test)
        share = held_out.read_share(rank, world_size, settings.probe.query_images)
        queries = load_images(share, settings)
        if (read_labels(held_out) < 0).any():
            query_pairs = _pairs(share, queries, settings, device)
    images = load_images(bank, settings)
    pairs = _pairs(bank, images, settings, device)
    return Probe(settings, images, queries, pairs, device, query_pairs)


def _pairs(
    table: pa.Table, images: LabelledImages, settings: Settings, device: torch.device
) -> ViewPairs:
    """Views of the first of some images, as many of this worker's as there are."""
    rows = images.rows[images.rows < _MOST_PAIRS].numpy()
    return load_view_pairs(table.filter(pc.is_in(table["row"], pa.array(rows))), settings, device)
