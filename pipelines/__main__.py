"""All commands under one name: `bt-ray COMMAND …`, or `python -m pipelines COMMAND …`."""

import sys
from difflib import get_close_matches
from importlib import import_module

from rich.table import Table
from rich.text import Text

from bt_ray import __version__
from pipelines.terminal import command, console

_DEMO = "demo"
COMMANDS = {
    _DEMO: "pretrain on handwritten digits, as `pretrain digits` does",
    "suggest": "look at your images, and write settings for them",
    "pretrain": "pretrain an encoder on your images or a known data set",
    "show": "draw your images beside the views that training makes of them",
    "doctor": "look at every node, and say what is wrong",
    "prepare": "write images as shards, which training streams",
    "sweep": "search settings, and register the winner",
    "ablate": "train the rows of one of the paper's tables or figures",
    "compare": "train by several methods, and compare what they learn",
    "evaluate": "score an encoder: kNN, linear, semi-supervised, transfer",
    "register": "list, register, promote and roll back models",
    "export": "write an encoder for torchvision, ONNX Runtime or torch",
    "embed": "turn images into vectors",
    "neighbors": "look up what is near among embedded images",
    "report": "write one page about one run or several",
}
"""What each command does; all but the demo are modules of this package."""


@command
def main() -> None:
    """Runs the command that is named first; without one, lists them."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h"):
        print_commands()
    elif name == "--version":
        print(f"bt-ray {__version__}")
    elif name in COMMANDS:
        run(name, arguments)
    else:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`bt-ray` alone lists them."
        console.print(f"There is no command {name!r}; {hint}", soft_wrap=True)
        sys.exit(2)


def run(name: str, arguments: list[str]) -> None:
    """Imports this command alone, and hands it the arguments."""
    if name == _DEMO:
        name, arguments = "pretrain", ["digits", *arguments]
    sys.argv = [f"bt-ray {name}", *arguments]
    import_module(f"pipelines.{name}").main()


def print_commands() -> None:
    """The commands, a line each."""
    table = Table(box=None, show_header=False, title="bt-ray COMMAND …", title_justify="left")
    for name, words in COMMANDS.items():
        table.add_row(Text(name, "bold"), words)
    console.print(table)
    console.print("`bt-ray COMMAND --help` tells more; `bt-ray --version` says which this is.")


if __name__ == "__main__":
    main()
