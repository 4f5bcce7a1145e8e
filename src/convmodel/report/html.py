"""HTML pages that are one file each: the page itself, headings, tables and pictures.

Owns: the look that all reports share, and escaping: text becomes HTML here. Nothing on a page is loaded from elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from convmodel.layout.token_view import visible_line

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
p.about { color: var(--soft); }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; margin-bottom: 1.5rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem 0; border-top: 1px solid var(--line); }
thead th { border-top: 0; } .numbers td { text-align: right; white-space: nowrap; }
.numbers thead th { text-align: right; }
.numbers thead th:first-child { text-align: left; } .checks th, .status { white-space: nowrap; }
.pass { color: var(--pass); } .warn { color: var(--warn); } .fail { color: var(--fail); } .status { font-weight: 600; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { font-weight: 600; font-size: .95rem; } svg { width: 100%; height: auto; }
@media (max-width: 34rem) { .checks tr { display: block; border-top: 1px solid var(--line); padding: .4rem 0; }
  .numbers { font-size: .875rem; } .numbers th, .numbers td { padding-right: .4rem; }
  .numbers td { white-space: normal; }
  .checks td, .checks th { border: 0; padding: 0 .5rem 0 0; } .checks td:last-child { display: block; } }
""" + "".join(f".s{i} {{ background: var(--s{i}); }} " for i in range(SPEAKER_COLOURS))


class Html(str):
    """Text that is HTML already; all other text is escaped."""

    __slots__ = ()


def to_html(text: str) -> Html:
    """Escapes a line of text, with invisible characters made visible; leaves HTML as it is.

    Example:
        >>> to_html("a < b"), to_html(Html("<b>a</b>"))
        ('a &lt; b', '<b>a</b>')
    """
    return text if isinstance(text, Html) else Html(escape(visible_line(text)))


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """Returns a page of some HTML, readable on light and dark screens and on phones; `style` is added to its CSS."""
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{to_html(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{to_html(title)}</h1>
{body}
</body>
</html>
"""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> Html:
    """Returns a table of text or `Html` whose first column names the rows; a heading row without text is left out.

    The CSS class `numbers` aligns the cells to the right, `checks` breaks long ones.
    """
    head = "".join(f"<th>{to_html(name)}</th>" for name in columns)
    thead = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    body = "".join(
        f"<tr><th>{to_html(name)}</th>{''.join(f'<td>{to_html(cell)}</td>' for cell in cells)}</tr>\n"
        for name, *cells in rows
    )
    return Html(f'<div class="scroll"><table class="{kind}">{thead}<tbody>\n{body}</tbody></table></div>')


def plots(drawings: Mapping[str, str]) -> Html:
    """Returns pictures, as SVG by caption, side by side."""
    figures = "\n".join(
        f"<figure><figcaption>{to_html(caption)}</figcaption>{svg}</figure>" for caption, svg in drawings.items()
    )
    return Html(f'<div class="plots">\n{figures}\n</div>')
