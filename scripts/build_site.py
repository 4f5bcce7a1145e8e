"""Builds the documentation site from `docs/` into `site/`, without a network; a broken link or anchor is an error.

    python scripts/build_site.py
    python -m http.server -d site    # to look at it, on port 8000

Owns: the copy of `docs/` that the site is made of. In it, a link to a file outside `docs/` leads to a copy of that
file, and escapes that Python-Markdown would show are written in another way. The pages, their order and their look are
in `zensical.toml`.
"""

import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = "build/site/docs"  # as zensical.toml names it
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
BLOCK, SPAN, BRACKET = r"^```.*?^```$", r"(?<!`)(?P<ticks>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=ticks)(?!`)", r"\\[<>]"
CODE_OR_BRACKET = re.compile(f"(?P<block>{BLOCK})|{SPAN}|{BRACKET}", re.MULTILINE | re.DOTALL)


def main() -> None:
    copy_pages(ROOT, ROOT / PAGES)
    result = build(ROOT)
    if result.returncode:
        sys.exit(f"{_report(result.stdout + result.stderr)}\nThe site was not built. Fix what is listed above.")
    print("Built the site in site/. To look at it: python -m http.server -d site")


def build(root: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site that `zensical.toml` in a folder describes; any warning makes it fail."""
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def copy_pages(root: Path, target: Path) -> None:
    """Copies `docs/`, and the files outside it that its pages link to, which go to a folder `files`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "docs", target)
    for page in sorted(target.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name in set(OUTSIDE.findall(text)):
            copy_file(root, name, target)
        page.write_text(unescape(OUTSIDE.sub(r"files/\1", text)), encoding="utf-8")


def unescape(text: str) -> str:
    """Rewrites two escapes of GitHub's Markdown: Python-Markdown shows the backslash of `\\|` in code, and of `\\<`."""

    def replacement(match: re.Match[str]) -> str:
        if match["block"]:
            return match[0]
        if match["ticks"]:
            return match[0].replace("\\|", "|")
        return {"\\<": "&lt;", "\\>": "&gt;"}[match[0]]

    return CODE_OR_BRACKET.sub(replacement, text)


def copy_file(root: Path, name: str, target: Path) -> None:
    """Copies a file from outside `docs/`; in a page, links to anything else that is outside `docs/` become text."""
    copy = target / "files" / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if copy.suffix != ".md":
        shutil.copy(root / name, copy)
        return

    def link(match: re.Match[str]) -> str:
        text, place = match.groups()
        if re.match(r"https?:|#", place):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), place))
        if not path.startswith("docs/"):
            return text
        up = "../" * (name.count("/") + 1)
        return f"[{text}]({up}{path.removeprefix('docs/')})"

    copy.write_text(unescape(LINK.sub(link, (root / name).read_text(encoding="utf-8"))), encoding="utf-8")


def _report(output: str) -> str:
    """Returns the warnings without colours, and without the traceback of the abort that follows them."""
    return re.sub(r"\x1b\[[\d;]*m", "", output).partition("Traceback")[0].strip()


if __name__ == "__main__":
    main()
