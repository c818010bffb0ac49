"""Images that a linear layer can segment, with their masks."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = np.array([(30, 30, 30), (220, 40, 40), (40, 60, 220)], np.uint8)
"""Of the classes 0, 1, 2."""


def draw(seed: int, height: int = 40, width: int = 48) -> tuple[NDArray[np.uint8], ...]:
    """An image (h, w, 3) of a red and a blue box on grey, and its mask (h, w), borders ignored."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for kind in (1, 2):
        top, left = generator.integers(0, height - 20), generator.integers(0, width - 20)
        down, across = generator.integers(14, 20, 2)
        mask[top : top + down, left : left + across] = kind
    image = COLOURS[mask] + generator.integers(0, 20, (height, width, 3), dtype=np.uint8)
    mask[0] = 255
    return image, mask


def save_mask(mask: NDArray[np.uint8], file: Path, mode: str = "P") -> None:
    """Writes a mask as a PNG with a palette in which indices are not levels, or of another mode."""
    if mode == "RGB":
        Image.fromarray(np.stack([mask] * 3, axis=2)).save(file)
        return
    image = Image.fromarray(mask)
    if mode == "P":
        image = Image.frombytes("P", image.size, mask.tobytes())
        image.putpalette([(i * 89) % 256 for i in range(768)])
    elif mode == "I;16":
        image = Image.fromarray(mask.astype(np.uint16))
    image.save(file)


def write_folders(root: Path, seeds: range, mode: str = "P") -> tuple[Path, Path]:
    """A folder of images and one of masks called alike."""
    images, masks = root / "images", root / "masks"
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for seed in seeds:
        image, mask = draw(seed)
        Image.fromarray(image).save(images / f"{seed}.png")
        save_mask(mask, masks / f"{seed}.png", mode)
    return images, masks


def write_voc(root: Path, splits: dict[str, range]) -> Path:
    """Images and masks in VOC's layout; the folder VOC2012."""
    folder = root / "VOCdevkit" / "VOC2012"
    lists = folder / "ImageSets" / "Segmentation"
    for part in (folder / "JPEGImages", folder / "SegmentationClass", lists):
        part.mkdir(parents=True, exist_ok=True)
    for split, seeds in splits.items():
        (lists / f"{split}.txt").write_text("".join(f"{seed:06}\n" for seed in seeds))
        for seed in seeds:
            image, mask = draw(seed)
            Image.fromarray(image).save(folder / "JPEGImages" / f"{seed:06}.jpg", quality=95)
            save_mask(mask, folder / "SegmentationClass" / f"{seed:06}.png")
    return folder
