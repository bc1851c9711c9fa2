"""What people read: README.md and what stands beside it, the guides in docs/, and the notebook."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "from_folder_to_pictures.ipynb"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def notebook() -> dict[str, list[str]]:
    """The sources of the notebook's cells: {"code": […], "markdown": […]}."""
    cells: dict[str, list[str]] = {"code": [], "markdown": []}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        cells[cell["cell_type"]].append("".join(cell["source"]))
    return cells


@pytest.fixture(scope="session")
def pages(notebook: dict[str, list[str]]) -> dict[str, str]:
    """{path below the checkout: its Markdown} of every page; of the notebook, the text cells."""
    files = [
        path for folder in ("", "docs", "docs/datasets") for path in sorted((ROOT / folder).glob("*.md"))
    ]
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}
    return {**texts, str(NOTEBOOK.relative_to(ROOT)): "\n\n".join(notebook["markdown"])}
