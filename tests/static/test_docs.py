"""What the documentation shows is what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
# "`file`:", an empty line, and the code that is said to be from it.
QUOTED = re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)\n```$", ARCHITECTURE, re.M | re.S)


def test_the_architecture_quotes_code():
    assert len(QUOTED) >= 12


@pytest.mark.parametrize(("file", "code"), QUOTED, ids=[file for file, _ in QUOTED])
def test_quoted_code_is_the_file_s_own(file, code):
    assert code in (ROOT / file).read_text()


def test_no_code_in_the_architecture_is_without_its_file():
    assert len(re.findall(r"^```(?:python|toml)$", ARCHITECTURE, re.M)) == len(QUOTED)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_anchors_of_links_are_headings():
    headings = {
        page.name: {
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in page.read_text().splitlines()
            if line.startswith("#")
        }
        for page in PAGES
    }
    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#:]+)#([^)]*)\)", page.read_text()):
            assert anchor in headings[Path(target).name], (page.name, anchor)
