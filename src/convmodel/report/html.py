"""HTML pages as one file each: style, tables, escaping and writing.

Owns: the look that all reports share. Nothing on a page is loaded from elsewhere.
"""

import secrets
from collections.abc import Sequence
from html import escape
from pathlib import Path

from convmodel.errors import SaveError

SPEAKER_COLOURS = 6
"""Speakers with a colour of their own; later ones share them."""


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --soft: #646a73; --line: #d9dce1; --bar: #3b7dd8;
  --pass: #1a7f37; --warn: #9a6700; --fail: #c62828;
  --s0: #dbe9ff; --s1: #ffe7cf; --s2: #dcf5dc; --s3: #f4dcf6; --s4: #fff3b8; --s5: #d3f2f2; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa1ab; --line: #363a41;
  --bar: #6ba3ee; --pass: #4cc46a; --warn: #e0b040; --fail: #ff7b72;
  --s0: #1d3557; --s1: #573a1d; --s2: #1f4727; --s3: #4a2550; --s4: #4d4414; --s5: #174647; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1, .checks td { overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.about, .cure, .legend { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; margin-bottom: 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; } .numbers td { text-align: right; white-space: nowrap; }
.numbers thead th { text-align: right; }
.numbers thead th:first-child { text-align: left; } .checks th, .status { white-space: nowrap; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail { color: var(--fail); } .status { font-weight: 600; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; } svg { width: 100%; height: auto; }
.window { border-left: 3px solid var(--line); padding-left: .7rem; margin: .8rem 0; line-height: 2; }
.t { border-radius: .25rem; padding: .1rem .2rem; margin-right: .12rem; font-family: ui-monospace, monospace;
  font-size: .88rem; }
.window .t:not(.learned) { opacity: .7; } .learned { font-weight: 700; text-decoration: underline; }
.separator { border: 1px solid currentColor; }
@media (max-width: 34rem) { .checks tr { display: block; border-top: 1px solid var(--line); padding: .4rem 0; }
  .numbers { font-size: .875rem; } .numbers th, .numbers td { padding-right: .4rem; }
  .numbers td { white-space: normal; }
  .checks td, .checks th { border: 0; padding: 0 .5rem 0 0; } .checks td:last-child { display: block; } }
""" + "".join(f".s{i} {{ background: var(--s{i}); }} " for i in range(SPEAKER_COLOURS))


def page(title: str, body: str, style: str = "") -> str:
    """Makes a page that needs nothing else, readable on light and dark and on a phone.

    Args:
        title: Its heading.
        body: HTML.
        style: CSS beside what every page has.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a table of text, whose first column names the rows; an empty heading row is left out."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr><th>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>\n"
        for row in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f'<div class="scroll"><table class="numbers">{thead}<tbody>\n{body}</tbody></table></div>\n'


def write_text(path: Path, text: str) -> None:
    """Writes beside the place and moves in, so that a page is never half there.

    Raises:
        SaveError: If the file cannot be written.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error
    finally:
        part.unlink(missing_ok=True)
