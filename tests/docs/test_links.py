"""Every link between the pages leads somewhere, and the README stays short."""

import re
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLAIN = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)  # Code: what looks like a link in it is none.


def test_links_to_files_lead_to_files(root: Path, pages: dict[str, str]) -> None:
    broken, seen = [], 0
    for page, text in pages.items():
        for target in LINK.findall(PLAIN.sub("", text)):
            if target.startswith(("https://", "http://", "mailto:")):
                continue
            seen += 1
            file, _, heading = target.partition("#")
            path = (root / page).parent / file if file else root / page
            if not path.exists():
                broken.append(f"{page}: {target}")
            elif heading and heading not in _anchors(path.read_text(encoding="utf-8")):
                broken.append(f"{page}: {target} (no such heading)")
    assert not broken
    assert seen > 30  # The pattern still finds them.


def test_every_guide_is_in_the_sites_contents(root: Path, pages: dict[str, str]) -> None:
    contents = pages["docs/index.md"].split()
    docs = (Path(page) for page in pages if page.startswith("docs/"))
    guides = {page.relative_to("docs").with_suffix("").as_posix() for page in docs} - {"index"}
    assert not [guide for guide in sorted(guides) if guide not in contents]


def test_the_readme_fits_on_a_page(pages: dict[str, str]) -> None:
    assert len(pages["README.md"].splitlines()) <= 130


def test_every_room_of_the_package_is_in_the_readme(root: Path, pages: dict[str, str]) -> None:
    layout = pages["README.md"].split("## How it is laid out")[1]
    rooms = [path.parent.name for path in sorted((root / "dpanet_jax").glob("*/__init__.py"))]
    assert rooms
    assert not [room for room in rooms if f"\n  {room}/ " not in layout]


def _anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
