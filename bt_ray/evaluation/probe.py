"""What is measured of the network while it trains: kNN, signs of collapse, pictures' arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from bt_ray.config import Settings
from bt_ray.data.shards.shard_set import ShardSet
from bt_ray.distributed.collectives import gather_rows
from bt_ray.errors import NonFiniteLossError
from bt_ray.evaluation.correlation import cross_correlation
from bt_ray.evaluation.held_out import HeldOut, Share, can_be_told, is_labelled
from bt_ray.evaluation.hypersphere import alignment, uniformity
from bt_ray.evaluation.images import LabelledImages, ViewPairs
from bt_ray.evaluation.knn import choose_neighbors, knn_top1
from bt_ray.evaluation.labelled import digest
from bt_ray.evaluation.score import VALIDATION_SCORE, rank_me_cosine
from bt_ray.evaluation.spectrum import eigenvalues, mean_correlation, mean_deviation, rank_me
from bt_ray.methods.learner import Probing
from bt_ray.model.inputs import to_input
from bt_ray.model.network import Network
from bt_ray.precision import autocast

SHARED_IMAGES = "knn/held_out_in_training"
"""Measure: held-out images that are training images; there is none if none are."""
NEIGHBORS = "knn/neighbors"
"""Measure: k."""
_BLOCK = 512
_SPECTRUM_ROWS = 4096
_MOST_PAIRS = 1024
_CORRELATED = 256


@dataclass(frozen=True)
class Probe:
    """Encodes fixed images with all workers and measures representations and embeddings.

    The network works as it would for a user, with batch norm's running statistics; C thus is not
    quite that of a training step. Labels alone decide whether kNN is among the measures.
    """

    settings: Settings
    bank: LabelledImages
    queries: HeldOut | None
    """Of `data.test`."""
    pairs: ViewPairs
    device: torch.device
    validation: HeldOut | None = None
    """Of `data.validation`; its kind of score is kNN's, or without labels that of its views."""

    @torch.no_grad()
    def __call__(self, network: Network, average: nn.Module | None = None) -> Probing:
        """What was found; the same on every worker, and the network as it was.

        The arrays are `cross_correlation`, (d, d), C of the embeddings' first d = min(D, 256)
        dimensions, since D × D would be too much to hold and to look at; and `eigenvalues`, (F,),
        of the representations' covariance, descending, sum 1.

        Args:
          average: the averaged encoder, in eval mode: all that is measured of the encoder is
            measured of it, too, such as `knn_average/top1` beside `knn/top1`.
        Raises: NonFiniteLossError if the weights make representations that are not finite.
        """
        was_training = network.training
        network.eval()
        bank = self._gather(self._represent(network.encoder, self.bank.pixels), self.bank.rows)
        if not bank.isfinite().all():
            raise NonFiniteLossError(
                "The loss was finite until now, and the step after it made weights whose "
                "representations are not. The last checkpoint is kept. Start a run of another name "
                "with a lower optimizer.weight_rate, or with training.precision=bf16 or fp32."
            )
        views = self._views(network.encoder, self.pairs)
        z_a, z_b = (self._gather(self._embed(network, v), self.pairs.rows) for v in views)
        measures = self._measure(network.encoder, bank, views)
        if "knn/top1" in measures:
            measures[NEIGHBORS] = float(self._neighbors)
            if self._num_shared:
                measures[SHARED_IMAGES] = float(self._num_shared)
        if average is not None:
            theirs = self._gather(self._represent(average, self.bank.pixels), self.bank.rows)
            measures |= averaged(self._measure(average, theirs, self._views(average, self.pairs)))
        network.train(was_training)
        return Probing(
            measures=measures,
            arrays={
                "cross_correlation": cross_correlation(z_a, z_b).float().cpu().numpy(),
                "eigenvalues": eigenvalues(bank[:_SPECTRUM_ROWS]).float().cpu().numpy(),
            },
        )

    def _measure(
        self, encoder: nn.Module, bank: Tensor, views: tuple[Tensor, Tensor]
    ) -> dict[str, float]:
        """All that is measured of an encoder.

        Args:
          bank: (M, F), its representations of the training images.
          views: this worker's share of those of the pairs.
        """
        sample = bank[:_SPECTRUM_ROWS]
        view_a, view_b = (self._gather(view, self.pairs.rows) for view in views)
        measures = {
            "probe/rankme": rank_me(sample),
            "probe/mean_deviation": mean_deviation(sample),
            "probe/mean_correlation": mean_correlation(sample),
            "probe/alignment": alignment(view_a, view_b),
            "probe/uniformity": uniformity(sample),
        }
        if self.queries is not None:
            measures |= self._score_test(encoder, bank, self.queries)
        if self.validation is not None:
            measures |= self._score_validation(encoder, bank, self.validation)
        return measures

    def _score_test(self, encoder: nn.Module, bank: Tensor, held_out: HeldOut) -> dict[str, float]:
        """KNN, and rank and alignment of images without labels, for which there is none."""
        found = dict[str, float]()
        top1 = self._knn(encoder, bank, held_out.images)
        if top1 is not None:
            found["knn/top1"] = top1
        if held_out.pairs is not None:
            rank, distance = self._rank_and_alignment(encoder, held_out.images, held_out.pairs)
            found |= {"held_out/rankme": rank, "held_out/alignment": distance}
        return found

    def _score_validation(
        self, encoder: nn.Module, bank: Tensor, held_out: HeldOut
    ) -> dict[str, float]:
        """The score that checkpoints are compared by, and what it is made of."""
        if held_out.pairs is not None:
            rank, distance = self._rank_and_alignment(encoder, held_out.images, held_out.pairs)
            score = rank_me_cosine(rank, distance)
            return {
                "validation/rankme": rank,
                "validation/alignment": distance,
                VALIDATION_SCORE: score,
            }
        top1 = self._knn(encoder, bank, held_out.images)
        return {} if top1 is None else {"validation/knn_top1": top1, VALIDATION_SCORE: top1}

    def _knn(self, encoder: nn.Module, bank: Tensor, queries: LabelledImages) -> float | None:
        """Top-1 of the queries; None unless every image of both sets has a label."""
        query_labels = self._gather(queries.labels, queries.rows)
        if (self._bank_labels < 0).any() or (query_labels < 0).any():
            return None
        return knn_top1(
            bank,
            self._bank_labels,
            self._gather(self._represent(encoder, queries.pixels), queries.rows),
            query_labels,
            neighbors=self._neighbors,
            temperature=self.settings.probe.temperature,
        )

    @cached_property
    def _bank_labels(self) -> Tensor:
        return self._gather(self.bank.labels, self.bank.rows)

    @cached_property
    def _neighbors(self) -> int:
        """k, as set or as the bank's labels have it."""
        return self.settings.probe.neighbors or choose_neighbors(self._bank_labels)

    @cached_property
    def _num_shared(self) -> int:
        """How many held-out images are among the training images, pixel for pixel as probed."""
        if self.queries is None:
            return 0
        images = self.queries.images
        bank = self._gather(_digests(self.bank.pixels), self.bank.rows)
        queries = self._gather(_digests(images.pixels), images.rows)
        return int(torch.isin(queries, bank).sum())

    def _rank_and_alignment(
        self, encoder: nn.Module, images: LabelledImages, pairs: ViewPairs
    ) -> tuple[float, float]:
        """RankMe of some images' representations, and alignment of their views'."""
        sample = self._gather(self._represent(encoder, images.pixels), images.rows)
        view_a, view_b = (self._gather(view, pairs.rows) for view in self._views(encoder, pairs))
        return rank_me(sample[:_SPECTRUM_ROWS]), alignment(view_a, view_b)

    def _views(self, encoder: nn.Module, pairs: ViewPairs) -> tuple[Tensor, Tensor]:
        """Representations of this worker's share of some views, (n, F) each."""
        return self._represent(encoder, pairs.view_a), self._represent(encoder, pairs.view_b)

    def _represent(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """float32 (n, F) representations of this worker's images."""
        with autocast(self.settings.training, self.device):
            parts = [
                encoder(to_input(block.to(self.device), self.settings))
                for block in pixels.split(_BLOCK)
            ]
        return torch.cat(parts).float()

    def _embed(self, network: Network, representations: Tensor) -> Tensor:
        """float32 (n, d), the first d = min(D, 256) dimensions of this worker's embeddings."""
        with autocast(self.settings.training, self.device):
            embeddings: Tensor = network.projector(representations)
        return embeddings[:, :_CORRELATED].float()

    def _gather(self, mine: Tensor, rows: Tensor) -> Tensor:
        """All workers' `mine` in the order of the data set, however many shared it."""
        order = gather_rows(rows.to(self.device)).argsort()
        return gather_rows(mine.to(self.device))[order]


def _digests(pixels: Tensor) -> Tensor:
    """int64 (n,), 64 bits of each image's pixels."""
    found = [digest(image.numpy().tobytes()) for image in pixels.cpu()]
    return torch.from_numpy(np.array(found, np.uint64).view(np.int64))


def averaged(measures: Mapping[str, float]) -> dict[str, float]:
    """The measures under the names that those of the averaged encoder have."""
    return {name.replace("/", "_average/", 1): value for name, value in measures.items()}


def build_probe(
    settings: Settings, device: torch.device, *, rank: int = 0, world_size: int = 1
) -> Probe:
    """A probe over this worker's share of the training images and the held-out ones."""
    share, data = Share(settings, device, rank, world_size), settings.data
    train = ShardSet.open(data.train)
    images, pairs = share.read(train, settings.probe.bank_images)
    queries = validation = None
    if data.test is not None:
        test = ShardSet.open(data.test)
        queries = share.hold_out(test, by_views=not is_labelled(test))
    if data.validation is not None:
        shards = ShardSet.open(data.validation)
        validation = share.hold_out(shards, by_views=not can_be_told(train, shards))
    return Probe(settings, images, queries, pairs, device, validation)
