"""Which lines on the terminal are ours."""

import re

_OURS = re.compile(
    r"|".join(
        (
            r"",
            r"[┌│├└].*[┐│┤┘]",
            r" *(What came of it|What it will be|Settings of \S+) *",
            r"Pretraining \S+ on \S+",
            r"[\d,]+ of [\d,]+ images written.*",
            r"epoch [\d.]+ of \d+ · .*",
            r"Use the encoder:",
            r"    (import mlflow, |mlflow\.set_|encoder = |image = |representations = ).*",
        )
    )
)


def foreign_lines(stderr: str) -> list[str]:
    """The lines of a pretraining command's stderr that are not its own."""
    return [line for line in stderr.splitlines() if not _OURS.fullmatch(line)]
