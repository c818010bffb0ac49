"""What is measured of an encoder while it trains: kNN and signs of collapse."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bt_ray.collectives import gather_rows
from bt_ray.config import Settings
from bt_ray.data.batches import normalize
from bt_ray.data.decode import decode
from bt_ray.data.shards import ShardSet
from bt_ray.data.views import central
from bt_ray.evaluation.knn import knn_top1
from bt_ray.evaluation.spectrum import mean_correlation, mean_deviation, rank_me
from bt_ray.precision import autocast, memory_format

_BLOCK = 512
_SPECTRUM_ROWS = 4096


@dataclass(frozen=True)
class LabelledImages:
    """One worker's share of some images, ready to encode.

    `pixels`: uint8 (n, 3, px, px); `labels`: int64 (n,), -1 where there is none; `rows`:
    int64 (n,), their numbers in the data set.
    """

    pixels: Tensor
    labels: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Probe:
    """Encodes fixed images with all workers and measures the representations.

    Labels alone decide whether kNN is among the measures.
    """

    settings: Settings
    bank: LabelledImages
    queries: LabelledImages | None
    device: torch.device

    def __call__(self, encoder: nn.Module) -> dict[str, float]:
        """Measures by metric name; the same on every worker, and `encoder` as it was."""
        was_training = encoder.training
        encoder.eval()
        bank, bank_labels = self._encode(encoder, self.bank)
        sample = bank[:_SPECTRUM_ROWS]
        measures = {
            "probe/rankme": rank_me(sample),
            "probe/mean_deviation": mean_deviation(sample),
            "probe/mean_correlation": mean_correlation(sample),
        }
        if self.queries is not None:
            queries, query_labels = self._encode(encoder, self.queries)
            if (bank_labels >= 0).all() and (query_labels >= 0).all():
                measures["knn/top1"] = knn_top1(
                    bank,
                    bank_labels,
                    queries,
                    query_labels,
                    neighbors=self.settings.probe.neighbors,
                    temperature=self.settings.probe.temperature,
                )
        encoder.train(was_training)
        return measures

    @torch.no_grad()
    def _encode(self, encoder: nn.Module, images: LabelledImages) -> tuple[Tensor, Tensor]:
        layout = memory_format(self.settings.training)
        with autocast(self.settings.training, self.device):
            parts = [
                encoder(normalize(block.to(self.device)).contiguous(memory_format=layout)).float()
                for block in images.pixels.split(_BLOCK)
            ]
        # In the order of the data set, however many workers shared it.
        order = gather_rows(images.rows.to(self.device)).argsort()
        features, labels = gather_rows(torch.cat(parts)), gather_rows(images.labels.to(self.device))
        return features[order], labels[order]


def build_probe(
    settings: Settings, device: torch.device, *, rank: int = 0, world_size: int = 1
) -> Probe:
    """A probe over this worker's share of the training images and the held-out ones."""

    def share(root: str, most: int) -> LabelledImages:
        table = ShardSet.open(root).read_share(rank, world_size, most)
        return _load(table, settings.views.image_px)

    bank = share(settings.data.train, settings.probe.bank_images)
    queries = (
        share(settings.data.test, settings.probe.query_images)
        if settings.data.test is not None
        else None
    )
    return Probe(settings, bank, queries, device)


def _load(table: pa.Table, image_px: int) -> LabelledImages:
    def pixels(encoded: pa.BinaryScalar) -> NDArray[Any]:
        return np.asarray(central(decode(encoded.as_buffer()), image_px))

    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(pixels, table["image"]))
    stacked = np.stack(images) if images else np.empty((0, image_px, image_px, 3), np.uint8)
    return LabelledImages(
        pixels=torch.from_numpy(stacked.transpose(0, 3, 1, 2).copy()),
        labels=torch.from_numpy(table["label"].fill_null(-1).to_numpy().astype(np.int64)),
        rows=torch.from_numpy(table["row"].to_numpy().copy()),
    )
