"""The documentation site: its navigation has every page once; it is built without a warning and asks no other host."""

import importlib
import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]


def pages_of(entries: list[Any]) -> Iterator[str]:
    """Yields the pages of a part of the navigation: `{title: page}` or `{title: [more of these]}`."""
    for entry in entries:
        [target] = entry.values()
        if isinstance(target, str):
            yield target
        else:
            yield from pages_of(target)


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(pages_of(CONFIG["nav"])) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_navigation_has_four_kinds_of_pages() -> None:
    assert [next(iter(entry)) for entry in CONFIG["nav"]] == [
        "Home",
        "Tutorials",
        "How-to guides",
        "Concepts",
        "Reference",
    ]


def test_the_front_page_links_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs/index.md").read_text(encoding="utf-8")))
    assert linked == set(pages_of(CONFIG["nav"])) - {"index.md"}


def test_the_commands_of_the_front_page_are_those_that_the_tutorial_runs() -> None:
    [block] = re.findall(r"```text\n(.*?)```", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = re.sub(r" \\\n +", " ", block).splitlines()
    assert [command.split()[1] for command in commands] == ["import", "fit", "chat"]
    assert {*commands} <= {*(ROOT / "docs/quickstart.md").read_text(encoding="utf-8").splitlines()}


def test_the_site_is_built_without_a_warning(built: Path) -> None:
    for page in pages_of(CONFIG["nav"]):
        assert (built / page).with_suffix(".html").is_file()
    assert "Ollama" in (built / "search.json").read_text(encoding="utf-8")


def test_pages_load_nothing_from_another_host(built: Path) -> None:
    loaded = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    for page in built.rglob("*.html"):
        assert loaded.findall(page.read_text(encoding="utf-8")) == [], page
    for style in built.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", style.read_text(encoding="utf-8")), style


def test_no_page_shows_the_backslash_of_an_escape(built: Path) -> None:
    for page in built.rglob("*.html"):
        shown = re.sub(r"<(pre|script)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert re.findall(r".*\\(?:\||&[lg]t;|[<>]).*", shown) == [], page
    assert "<code>&lt;|im_end|&gt;" in (built / "token-layout.html").read_text(encoding="utf-8")


def test_escapes_are_rewritten_outside_of_blocks_alone(build_site: ModuleType) -> None:
    block = "```text\na \\| `b \\| c` \\<d\\>\n```\n"
    text = "| `a \\| b` and ``c ` \\| d`` | \\<sep\\> \\| |\n"
    shown = "| `a | b` and ``c ` | d`` | &lt;sep&gt; \\| |\n"
    assert build_site.unescape(f"{text}{block}{text}") == f"{shown}{block}{shown}"


def test_a_link_out_of_docs_leads_to_a_copy(built: Path) -> None:
    assert 'href="files/examples/first-model.ipynb"' in (built / "quickstart.html").read_text(encoding="utf-8")
    notebook = (built / "files/examples/first-model.ipynb").read_bytes()
    assert notebook == (ROOT / "examples/first-model.ipynb").read_bytes()


def test_broken_links_and_anchors_fail_the_build(build_site: ModuleType, tmp_path: Path) -> None:
    settings = 'nav = [{ "Home" = "index.md" }]\n[project.markdown_extensions.toc]\n'
    (tmp_path / "zensical.toml").write_text(f'[project]\nsite_name = "x"\n{settings}', encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# Home\n\n[a](missing.md) [b](index.md#missing)\n", encoding="utf-8")
    result = build_site.build(tmp_path)
    assert result.returncode
    assert "page does not exist" in result.stdout + result.stderr
    assert "anchor does not exist" in result.stdout + result.stderr


@pytest.fixture(scope="module")
def build_site() -> ModuleType:
    """The script, as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        return importlib.import_module("build_site")


@pytest.fixture(scope="module")
def built(build_site: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a folder of its own."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    build_site.copy_pages(ROOT, folder / build_site.PAGES)
    result = build_site.build(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "site"
