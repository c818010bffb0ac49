"""Labels: which cluster each image of the training set belongs to."""

import torch
from torch import Tensor, nn

UNKNOWN = -1
"""The label of an image that has none."""


class Labels(nn.Module):
    """Labels of M images in one or more labellings, int64 (heads, M), none of them known at first.

    For 1.28 million images and three labellings they take 31 MB on each worker and in a checkpoint.
    """

    values: Tensor

    def __init__(self, num_images: int, heads: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.full((heads, num_images), UNKNOWN))

    def of(self, samples: Tensor) -> Tensor:
        """The labels (heads, N) of the images `samples`, int64 (N,)."""
        return self.values[:, samples]

    def draw(self, head: int, num_labels: int, generator: torch.Generator) -> None:
        """Random labels of a head, with as many images of each label as of any other, or one more.

        Args:
          generator: on the CPU.
        """
        order = torch.randperm(self.values.shape[1], generator=generator)
        self.values[head] = order.to(self.values.device) % num_labels
