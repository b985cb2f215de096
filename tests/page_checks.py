"""What every page of ours must be: self-contained, well-formed, and usable with a keyboard and a screen reader."""

import html.parser
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(html.parser.HTMLParser):
    """Elements with their attributes and the text; fails where elements aren't closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} is closed out of order"

    def handle_data(self, data):
        self.text.append(data)


def check_page(page, plots):
    """Check a page, and return its text."""
    outline = Outline()
    outline.feed(page)
    assert not outline.open
    tags, attributes = Counter(tag for tag, _ in outline.elements), [each for _, each in outline.elements]

    # Self-contained, without scripts.
    assert not {"script", "img", "link", "iframe", "object", "form", "base"} & tags.keys()
    assert not [name for each in attributes for name in each if name.startswith("on")]
    assert not re.search(r"url\((?!#)|(?:src|href)=\"(?!#)|@import|@font-face", page)
    (policy,) = [each["content"] for each in attributes if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert 'lang="en"' in page and "width=device-width" in page and "prefers-color-scheme: dark" in page
    assert "@media print" in page

    # Landmarks and headings.
    assert tags["h1"] == tags["main"] == tags["header"] == tags["nav"] == 1 and tags["h2"] == tags["section"] >= 3
    ids = [each["id"] for each in attributes if "id" in each]
    assert len(ids) == len(set(ids))
    links = [each["href"] for tag, each in outline.elements if tag == "a"]
    assert len(links) == tags["h2"] and all(link[1:] in ids for link in links)
    assert all(each["aria-labelledby"] in ids for tag, each in outline.elements if tag == "section")

    # Tables have captions and headers; what scrolls has a name and can be reached with the keyboard.
    assert tags["table"] == tags["caption"] == tags["thead"]
    for table in re.findall(r"<table.*?</table>", page, re.DOTALL):
        assert 'scope="col"' in table and 'scope="row"' in table
    regions = [each for each in attributes if each.get("role") == "region"]
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in regions) and len(regions) >= tags["table"]
    assert len({each["aria-label"] for each in regions}) == len(regions)

    # A plot has a text, or a table beside it; text stays text, and colours are those of the page.
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == tags["figure"] == tags["figcaption"] == plots
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.get("aria-hidden") == "true" or (root.get("role") == "img" and len(root.get("aria-label")) > 40)
        assert "<text" in svg and "var(--ink)" in svg and not re.search(r"#[0-9a-f]{6}", svg)
    return " ".join("".join(outline.text).split())
