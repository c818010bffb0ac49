"""Noise as targets: each image regresses to a random vector (Bojanowski and Joulin 2017)."""

from typing import cast

from torch import Tensor
from torch.nn.functional import normalize

from bt_ray.data.stream.batches import Batch
from bt_ray.methods.assignment import Assignment, reassign
from bt_ray.methods.learner import Embedded, Outcome
from bt_ray.methods.memory_bank import last_of_same
from bt_ray.methods.pretraining import PretrainingLearner, spread
from bt_ray.model.network import Network
from bt_ray.model.twins import build_network


class NatLearner(PretrainingLearner):
    """The squared distance of normalised embeddings from their targets (Eq. 1).

    The targets of a global batch's images are exchanged among these, so that they lie nearest,
    before the loss is taken (Algorithm 1), in the first epoch and each `epochs_between`-th after
    it. In those epochs each step waits for the device and for the host, which computes this alike
    for every worker; in the others nothing is waited for.

    The paper has one view of an image. Here both views regress to the image's target, and targets
    are exchanged by the mean of the two, so that an image has one target. Its inputs are images of
    gradients (section 3.1), which do without colours; ours are the views as they are.
    """

    _assigned: tuple[Tensor, Tensor] | None = None
    """The rows of the data set that got targets in this step, and the targets' numbers."""

    def build_network(self) -> Network:
        """Encoder and projector, and the `assignment` of targets to images."""
        network = build_network(self.settings)
        width = self.settings.model.projector_widths[-1]
        assignment = Assignment(self.num_images, width, self.generator(0))
        network.add_module("assignment", assignment)
        return network

    @property
    def _assignment(self) -> Assignment:
        return cast(Assignment, self.module.get_submodule("assignment"))

    def embed(self, batch: Batch) -> Embedded:
        """Representations (n, F) of each of the two views, and the images' rows (n,)."""
        return *super().embed(batch), self.samples(batch)

    def objective(self, embedded: Embedded) -> Outcome:
        """The loss of the embeddings, by targets that are exchanged first if it is time."""
        *representations, samples = embedded
        with self.autocast():
            z_a, z_b = self.module.project(*representations)
        of_a, of_b = (normalize(self.gathered(z), dim=1) for z in (z_a, z_b))
        numbers = self._assign(self.gathered_rows(samples), of_a.detach() + of_b.detach())
        targets = self._assignment.targets[numbers]
        loss = (half_distance(of_a, targets) + half_distance(of_b, targets)) / 2
        nearest = (of_a.detach() @ targets.T).argmax(dim=1)
        hits = (numbers[nearest] == numbers).float().mean()
        return Outcome(loss, {"target_top1": hits, "spread": spread(of_a)}, (z_a, z_b))

    def after_step(self, step: int) -> None:
        """Keeps the targets that the images got in this step."""
        if self._assigned is not None:
            samples, numbers = self._assigned
            self._assignment.of_image[samples] = numbers[last_of_same(samples)]
            self._assigned = None

    def _assign(self, samples: Tensor, embeddings: Tensor) -> Tensor:
        """The numbers (N,) of the targets of these rows of the data set.

        Where a row is there twice, in the place of an image that could not be decoded, it keeps one
        of the two targets that it gets; another image may then have the same.
        """
        numbers = self._assignment.of_image[samples]
        epoch = self.step // self.steps_per_epoch
        if epoch % self.settings.objective.nat.epochs_between == 0:
            chosen = reassign(normalize(embeddings, dim=1), self._assignment.targets[numbers])
            numbers = numbers[chosen]
            self._assigned = samples, numbers
        return numbers


def half_distance(embeddings: Tensor, targets: Tensor) -> Tensor:
    """½ ‖f − y‖², averaged over the rows (N, D) of both. Source: their Eq. 1."""
    return (embeddings - targets).square().sum(dim=1).mean() / 2
