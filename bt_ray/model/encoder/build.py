"""From the settings to an encoder."""

from torch import nn

from bt_ray.config import Settings
from bt_ray.model.encoder import convolutional, of_factory, of_timm, of_torchvision


def build_encoder(settings: Settings) -> nn.Module:
    """A module that turns images (n, c, px, px) into representations (n, F).

    Its weights are new, drawn by torch's global generator; its attribute `num_features` is F.

    Raises: SettingsError if there is no such encoder, or it cannot be built for these images;
      LaunchError if its package is not installed.
    """
    model, channels = settings.model, settings.data.channels
    if model.encoder in convolutional.LAYERS:
        return convolutional.ConvEncoder(convolutional.LAYERS[model.encoder], channels)
    library, _, name = model.encoder.rpartition(":")
    if library == "timm":
        return of_timm.build(name, settings)
    if library in ("", "torchvision"):
        return of_torchvision.build(name, settings)
    return of_factory.build(library, name, settings)
