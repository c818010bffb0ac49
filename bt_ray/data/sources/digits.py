"""scikit-learn's handwritten digits, which need no download."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from bt_ray.data.sources.source import Source

_TEST_EVERY = 5


@dataclass(frozen=True)
class _Held:
    """Reads images that are in the index itself: column `encoded`."""

    def read(self, entries: pa.Table) -> Iterator[bytes]:
        return (encoded.as_py() for encoded in entries["encoded"])


def digits(*, test: bool) -> Source:
    """scikit-learn's 1,797 handwritten digits as JPEG; every fifth is held out for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    names, labels, contents = [], [], []
    for i, (pixels, label) in enumerate(zip(data.images, data.target, strict=True)):
        if (i % _TEST_EVERY == 0) == test:
            levels = (pixels * (255 / 16)).round().astype("uint8")
            buffer = io.BytesIO()
            Image.fromarray(levels).save(buffer, format="JPEG", quality=95)
            names.append(f"digit-{i:04d}")
            labels.append(int(label))
            contents.append(buffer.getvalue())
    return Source(
        identity=f"digits-{'test' if test else 'train'}",
        classes=tuple(str(digit) for digit in range(10)),
        entries=pa.table({
            "sample_id": names, "label": pa.array(labels, pa.int32()), "origin": names,
            "encoded": pa.array(contents, pa.binary()),
        }),
        reader=_Held(),
        num_bytes=sum(map(len, names)) + sum(map(len, contents)),
        name="digits:test" if test else "digits",
    )  # fmt: skip
