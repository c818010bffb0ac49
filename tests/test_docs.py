"""The documentation: short where it promises to be, its links and the files that it names there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md"))
)
_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE = re.compile(r"`((?:bt_ray|pipelines|tune_spaces|benchmarks|tests|deploy)/[\w/]+\.\w+)`")


def prose(page: str) -> str:
    """The page without its code blocks."""
    return _FENCED.sub("", (ROOT / page).read_text())


def anchors(page: Path) -> set[str]:
    """What links to a page's headings end with, as GitHub makes it of them."""
    headings = _HEADING.findall(_FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: str) -> list[str]:
    """Relative links of a page that lead nowhere."""
    broken = []
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        place, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / place).resolve() if place else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A heading: λ, twice\n```\n# none\n```\n")
    links = ("other.md", "other.md#a-heading-λ-twice", "#here", "other.md#none", "absent.md", "#no")
    (tmp_path / "page.md").write_text("# Here\n" + " ".join(f"[a]({link})" for link in links))
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    assert broken_links("page.md") == ["other.md#none", "absent.md", "#no"]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page: str) -> None:
    """But for those that have moved or gone, and those that a recipe adds."""
    if page not in ("CHANGELOG.md", "CONTRIBUTING.md"):
        assert [name for name in _FILE.findall(prose(page)) if not (ROOT / name).exists()] == []


def test_the_tree_of_rooms_is_the_real_one() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    [tree] = [block for block in _FENCED.findall(page) if "\nbt_ray/\n" in block]
    rooms = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert rooms == {path.parent.name for path in ROOT.glob("bt_ray/*/__init__.py")}
    rooms_of_data = set(re.findall(r"^    (\w+)/ ", tree, re.MULTILINE))
    assert rooms_of_data == {path.parent.name for path in ROOT.glob("bt_ray/data/*/__init__.py")}
    files = {path.name for path in ROOT.glob("bt_ray/**/*.py")}
    assert set(re.findall(r"\w+\.py", tree)) <= files


def test_every_page_is_in_the_index() -> None:
    linked = set(_LINK.findall((ROOT / "docs" / "README.md").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked
