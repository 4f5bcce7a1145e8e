"""Prints the notes of a release: the section of its version in CHANGELOG.md, below how to install its files.

    python scripts/release_notes.py           # of the version in pyproject.toml
    python scripts/release_notes.py v0.4.0    # of this one, with or without the v

Until the section has its version and its date, "Unreleased" is printed, which a line on standard error reports.
Relative links become text: on the page of a release they would lead nowhere.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RELATIVE_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)\s]+\)")
INSTALL = """\
Download the wheel or the source archive below, and install it with pip, with all that trains, evaluates and serves:

    pip install "./{file}[all]"

docs/install.md has the other ways. This is not the library that PyPI has as convmodel 0.3 and earlier:
docs/migration.md is for its users.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", nargs="?", help="the version, or its tag; that of pyproject.toml if left out")
    version = (parser.parse_args().version or project_version()).removeprefix("v")
    try:
        notes, dated = release_notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    except ValueError as error:
        sys.exit(f"CHANGELOG.md: {error}")
    if not dated:
        print(f"CHANGELOG.md has no section {version}: these are the notes of Unreleased", file=sys.stderr)
    wheels = sorted(path.name for path in (ROOT / "dist").glob(f"convmodel-{version}-*.whl"))
    print(INSTALL.format(file=[*wheels, f"convmodel-{version}.tar.gz"][0]))
    print(notes)


def project_version() -> str:
    """The version in `pyproject.toml`."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def release_notes(changelog: str, version: str) -> tuple[str, bool]:
    """Returns the notes of a version, and whether the changelog has its section; if not, they are of Unreleased.

    Raises:
        ValueError: If there is neither, the section is empty, or its heading has no date.
    """
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", changelog, re.MULTILINE))
    of_version = [heading for heading in sections if heading.split()[0] == version]
    heading = of_version[0] if of_version else "Unreleased"
    if heading not in sections:
        raise ValueError(f"there is no section {version}, and none that is called Unreleased")
    if of_version and not re.fullmatch(re.escape(version) + r" - \d{4}-\d\d-\d\d", heading):
        raise ValueError(f'the heading "## {heading}" must be "## {version} - YYYY-MM-DD"')
    notes = sections[heading].strip()
    if not notes:
        raise ValueError(f'the section "## {heading}" is empty: list what users notice')
    return RELATIVE_LINK.sub(r"\1", notes), bool(of_version)


if __name__ == "__main__":
    main()
