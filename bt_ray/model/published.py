"""Weights that timm, torchvision and the Hugging Face hub publish: brought to a file here.

What was brought before is taken from the libraries' own caches (HF_HOME, TORCH_HOME), so that a
machine without a network can be given it beforehand.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from bt_ray.config.model import RESNETS
from bt_ray.errors import CheckpointError, LaunchError
from bt_ray.model.encoder.of_timm import require_timm

KINDS = ("timm:", "torchvision:", "hf:")
"""How names of published weights begin."""
_OF_REGISTRY = ("models:/", "runs:/")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HASH = re.compile(r"-([0-9a-f]{8,})\.")


def is_published(name: str) -> bool:
    """Whether a name means published weights, and no place of a file or a folder."""
    return name.startswith(KINDS)


def is_registered(name: str) -> bool:
    """Whether a name means a version in the model registry."""
    return name.startswith(_OF_REGISTRY)


def is_place(name: str) -> bool:
    """Whether a name means a file or a folder: nothing published, and nothing registered."""
    return not (is_published(name) or is_registered(name))


def fetch_weights(name: str) -> Path:
    """The file of the weights that a name means, downloaded unless it is in its library's cache.

    Args:
      name: `timm:NAME`, `torchvision:WEIGHTS` (or a model's name, for its best ones), or
        `hf:REPOSITORY[@REVISION]`.
    Raises: CheckpointError if there are no such weights, or they cannot be downloaded; LaunchError
      if a package is not installed.
    """
    kind, _, rest = name.partition(":")
    if kind == "timm":
        return _of_timm(name)
    if kind == "torchvision":
        return _download(name, _torchvision_weights(name)[0])
    repository, _, revision = rest.partition("@")
    return _of_hub(name, repository, revision or None)


def architecture_of(name: str) -> str:
    """The encoder, as `model.encoder` names it, whose weights `timm:…` or `torchvision:…` means.

    Raises: CheckpointError if there are no such weights; LaunchError if timm is not installed.
    """
    kind = name.partition(":")[0]
    if kind == "timm":
        return f"timm:{_timm_config(name).architecture}"
    import torchvision

    models, (_, weights) = torchvision.models, _torchvision_weights(name)
    for model in models.list_models(module=models):
        if isinstance(weights, models.get_model_weights(model)):
            return model if model in RESNETS else f"torchvision:{model}"
    raise CheckpointError(f"{name} are weights of no classifier; give --architecture.")


def statistics_of(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of RGB, as shares, that the weights `timm:…` were trained with.

    Raises: CheckpointError if there are no such weights.
    """
    known = _timm_config(name)
    return tuple(known.mean), tuple(known.std)


def _timm_config(name: str) -> Any:
    """What timm says of weights. Raises: CheckpointError if it has none of that name."""
    timm, model = require_timm(), name.partition(":")[2]
    try:
        known = timm.get_pretrained_cfg(model)
    except RuntimeError:  # of a tag that is not there
        known = None
    if known is None or not (known.hf_hub_id or known.url):
        near = timm.list_pretrained(f"{model.split('.')[0]}*")[:5]
        raise CheckpointError(
            f"{name}: timm {timm.__version__} has no weights of that name"
            f"{'; it has ' + ', '.join(near) if near else ''}."
        )
    return known


def _of_timm(name: str) -> Path:
    known = _timm_config(name)
    if known.hf_hub_id:
        return _of_hub(name, known.hf_hub_id, None, known.hf_hub_filename)
    return _download(name, known.url)


def _torchvision_weights(name: str) -> tuple[str, Any]:
    """The address and the member of torchvision's enumeration. Raises: CheckpointError."""
    import torchvision

    models, wanted = torchvision.models, name.partition(":")[2]
    try:
        found = (
            models.get_model_weights(wanted).DEFAULT
            if wanted in models.list_models()
            else models.get_weight(wanted)
        )
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{name}: torchvision {torchvision.__version__} has no weights of that name; they are "
            "called as in torchvision:ResNet50_Weights.IMAGENET1K_V2."
        ) from error
    return str(found.url), found


def _download(name: str, url: str) -> Path:
    """The file at an address, in torch's cache."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.is_file():
        promised = _HASH.search(file.name)
        with _explaining(name, f"{url} to {file}"):
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(file), hash_prefix=promised and promised[1], progress=False
            )
    return file


def _of_hub(name: str, repository: str, revision: str | None, file: str | None = None) -> Path:
    """The file of weights in a repository of the hub, in the hub's cache."""
    hub = _require_hub()
    wanted = (file,) if file else _HUB_FILES
    with _explaining(
        name, f"{repository} from the Hugging Face hub to {hub.constants.HF_HUB_CACHE}"
    ):
        for one in wanted:
            known = hub.try_to_load_from_cache(repository, one, revision=revision)
            if isinstance(known, str):
                return Path(known)
        for one in wanted:
            try:
                return Path(hub.hf_hub_download(repository, one, revision=revision))
            except hub.errors.LocalEntryNotFoundError:
                raise
            except hub.errors.EntryNotFoundError:
                continue
    raise CheckpointError(f"{name}: {repository} has no {' and no '.join(wanted)}.")


def _require_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise LaunchError(
            "Weights named hf:… need huggingface_hub: `pip install bt-ray[encoders]`."
        ) from error
    return huggingface_hub


@contextmanager
def _explaining(name: str, what: str) -> Iterator[None]:
    """Says in one sentence what could not be downloaded, and what else to do."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{name} cannot be brought here: downloading {what} failed ({_first_line(error)}). "
            "Fill that cache on a machine with a network, or give a file of the weights."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
