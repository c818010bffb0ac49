"""What the reading of a source found, took and passed over: one object, said in one sentence."""

from dataclasses import dataclass, field

_MOST_NAMED = 3


@dataclass
class Found:
    """Counts what a reading comes upon.

    `taken` is the number of images; `passed_over` has, for each reason, how many files or folders
    were left out for it, and the first of their names.
    """

    taken: int = 0
    passed_over: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """Whole sentences, of what was decided."""

    def pass_over(self, reason: str, name: str) -> None:
        """Counts one more file or folder that is left out, for this reason."""
        count, names = self.passed_over.get(reason, (0, []))
        names = [*names, printable(name)] if len(names) < _MOST_NAMED else names
        self.passed_over[reason] = (count + 1, names)

    def add(self, other: "Found") -> None:
        """Counts what another reading passed over, too."""
        for reason, (count, names) in other.passed_over.items():
            mine, mine_named = self.passed_over.get(reason, (0, []))
            self.passed_over[reason] = (mine + count, [*mine_named, *names][:_MOST_NAMED])
        self.remarks += other.remarks

    @property
    def num_passed_over(self) -> int:
        """Files and folders that were left out."""
        return sum(count for count, _ in self.passed_over.values())

    @property
    def is_remarkable(self) -> bool:
        """Whether anything was left out or decided."""
        return bool(self.passed_over or self.remarks)

    @property
    def sentence(self) -> str:
        """Found, taken, passed over and why."""
        total = self.taken + self.num_passed_over
        words = (
            f"{total:,} found, {self.taken:,} images taken, {self.num_passed_over:,} passed over"
        )
        reasons = [
            f"{count:,} {reason} ({', '.join(names)}{', …' if count > len(names) else ''})"
            for reason, (count, names) in sorted(self.passed_over.items())
        ]
        return " ".join([words + (f": {'; '.join(reasons)}." if reasons else "."), *self.remarks])


def printable(name: str) -> str:
    r"""The name as UTF-8 in one line.

    Bytes that are no UTF-8, and characters that move the cursor, become escapes such as `\xe9`.
    """
    if name.isprintable():
        return name
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in name
    )
