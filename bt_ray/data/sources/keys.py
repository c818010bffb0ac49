"""WebDataset's labels: `KEY.cls` beside `KEY.jpg`, whatever dots are in KEY."""

from collections import defaultdict

from bt_ray.errors import DataError


class KeyedLabels:
    """The label files of one archive, each found again by the images that it belongs to."""

    def __init__(self, archive: str) -> None:
        self._archive = archive
        self._words: dict[str, str] = {}
        self._keys_of_sample: dict[str, list[str]] = defaultdict(list)

    def add(self, name: str, content: bytes) -> None:
        """Hears of a label file.

        Raises: DataError if it is no text, or another of its name said something else.
        """
        key = name[: -len(".cls")]
        try:
            word = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name!r} in {self._archive!r} is no label: it is not UTF-8 ({error}); write it "
                "as text."
            ) from error
        if not word:
            raise DataError(f"{name!r} in {self._archive!r} is empty; write the label into it.")
        if self._words.get(key, word) != word:
            raise DataError(
                f"{name!r} is in {self._archive!r} twice, with the labels {self._words[key]!r} and "
                f"{word!r}; give each image a name of its own."
            )
        if key not in self._words:
            self._keys_of_sample[_sample(key)].append(key)
        self._words[key] = word

    def of(self, image: str) -> str | None:
        """The label of an image: of the longest key that its name begins with, up to a dot.

        WebDataset ends a key at the first dot. So `a.0.jpg` may also have its label in
        `a.label.cls`, if that is the only label that begins with `a`.

        Raises: DataError if several labels could be meant.
        """
        folder, slash, file = image.rpartition("/")
        while "." in file:
            file = file.rpartition(".")[0]
            if (word := self._words.get(f"{folder}{slash}{file}")) is not None:
                return word
        keys = self._keys_of_sample.get(_sample(image), [])
        if len({self._words[key] for key in keys}) > 1:
            raise DataError(
                f"Which label {image!r} in {self._archive!r} has cannot be told: {keys[0]}.cls and "
                f"{keys[1]}.cls say different ones; call its label file {_stem(image)}.cls."
            )
        return self._words[keys[0]] if keys else None


def _sample(name: str) -> str:
    """The path up to the file name's first dot, which WebDataset's files of one sample share."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _stem(image: str) -> str:
    return image.rpartition(".")[0]
