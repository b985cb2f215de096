"""Self-contained HTML pages: everything inline, no script, nothing loaded from elsewhere. Texts are escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from tokenizer_tools.pages.style import CSS
from tokenizer_tools.wording import as_unicode

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content-Security-Policy: no scripts, and nothing is loaded. Plots have style attributes."""


def page(title: str, heading: str, lead: str, sections: Mapping[str, str], *, contents: bool = False) -> str:
    """A page.

    Args:
        title: in the browser's title bar.
        heading: the page's h1.
        lead: HTML below it.
        sections: HTML of each section, by its heading.
        contents: link to the sections above them.
    """
    body = "".join(
        f'<section aria-labelledby="s{number}"><h2 id="s{number}">{escape(name)}</h2>{content}</section>\n'
        for number, (name, content) in enumerate(sections.items())
    )
    links = "".join(f'<li><a href="#s{number}">{escape(name)}</a></li>' for number, name in enumerate(sections))
    nav = f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n' if contents else ""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="robots" content="noindex">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(heading)}</h1>{lead}</header>\n{nav}<main>\n{body}</main>\n</body>\n</html>\n"
    )
    return as_unicode(text)


def tiles(figures: Mapping[str, str]) -> str:
    """The main figures of a page, by what they are."""
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in figures.items())
    return f'<dl class="tiles">{cells}</dl>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], css_class: str = "") -> str:
    """A table whose first column names the rows. It can be scrolled with the keyboard where it is too wide."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' if name else "<td></td>" for name in header)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    attribute = f' class="{css_class}"' if css_class else ""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table{attribute}>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def figure(svg: str, caption: str) -> str:
    """A plot of `svg.page_svg` with its caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def details(summary: str, content: str) -> str:
    """HTML that is shown when its summary is opened."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def paragraph(text: str, css_class: str = "") -> str:
    """A paragraph of escaped text."""
    attribute = f' class="{css_class}"' if css_class else ""
    return f"<p{attribute}>{escape(text)}</p>"
