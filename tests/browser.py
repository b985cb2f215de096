"""Pages in a real browser: faults that axe finds, what is cut off or loaded, and screenshots.

    python tests/browser.py PAGE.html ... --out FOLDER

Needs tests/install_browser.sh.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES = ("light", "dark")
CUT_OFF = """() => {
    const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
    const scrolls = (e) => e && (getComputedStyle(e).overflowX === 'auto' || scrolls(e.parentElement));
    const out = [...document.querySelectorAll('body *')].filter(
        (e) => !scrolls(e) && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
    return [wide > 0 ? `the page scrolls sideways by ${wide} px` : '',
            ...out.slice(0, 3).map((e) => `<${e.tagName.toLowerCase()}> is cut off`)].filter(Boolean);
}"""
FOCUS = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    return [e.tagName, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1];
}"""
SMALL_TEXT = """() => [...document.querySelectorAll('svg text')].filter(
    (e) => e.getBoundingClientRect().height > 0 && e.getBoundingClientRect().height < 8).length"""


def check(page: Path, out: Path | None = None, height: int = 0) -> list[str]:
    """The faults of a page, at each width and in each colour scheme.

    Args:
        page: HTML file.
        out: folder for screenshots; None: none are made.
        height: of screenshots, from the top, in pixels; 0: the whole page.
    """
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for device, width in WIDTHS.items():
            for scheme in SCHEMES:
                context = browser.new_context(
                    viewport={"width": width, "height": 900}, color_scheme=scheme, device_scale_factor=1
                )
                faults = _faults(context.new_page(), page)
                found += [f"{page.name}, {device}, {scheme}: {fault}" for fault in faults]
                if out:
                    shoot(context.pages[0], out / f"{page.stem}-{device}-{scheme}.png", width, height)
                context.close()
        found += [f"{page.name}, on paper: {fault}" for fault in _paper(browser, page)]
        browser.close()
    return found


def shoot(view: Page, path: Path, width: int, height: int) -> None:
    """A screenshot in 256 colours, which makes it smaller."""
    clip: Any = {"x": 0, "y": 0, "width": width, "height": height} if height else None
    image = Image.open(io.BytesIO(view.screenshot(full_page=True, clip=clip)))
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _faults(view: Page, page: Path) -> Iterator[str]:
    messages: list[str] = []
    requests: list[str] = []
    view.on("console", lambda message: messages.append(message.text))
    view.on("pageerror", lambda error: messages.append(str(error)))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(page.resolve().as_uri())
    yield from messages
    yield from (f"loads {url}" for url in requests if url != page.resolve().as_uri())
    yield from view.evaluate(CUT_OFF)
    if small := view.evaluate(SMALL_TEXT):
        yield f"{small} labels of plots are lower than 8 px"
    for _ in range(view.locator("a:visible, summary:visible, [tabindex='0']:visible").count()):
        view.keyboard.press("Tab")
        tag, is_visible = view.evaluate(FOCUS)
        if not is_visible:
            yield f"the focus on <{tag.lower()}> can't be seen"
    for summary in view.locator("summary").all():
        summary.focus()
        view.keyboard.press("Enter")
    if closed := view.locator("details:not([open])").count():
        yield f"{closed} details don't open with the Enter key"
    found: Any = Axe().run(view).response
    for violation in found["violations"]:
        places = ", ".join(str(node["target"]) for node in violation["nodes"][:3])
        yield f"axe: {violation['id']} ({violation['help']}) at {places}"
    if not found["passes"]:
        yield "axe has checked nothing"
    for summary in view.locator("summary").all():
        summary.click()


def _paper(browser: Any, page: Path) -> Iterator[str]:
    """On A4, from a browser in dark colours."""
    view = browser.new_page(color_scheme="dark", viewport={"width": 680, "height": 960})
    view.emulate_media(media="print")
    view.goto(page.resolve().as_uri())
    if view.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)":
        yield "the background isn't white"
    if view.locator("nav").is_visible():
        yield "links are printed"
    if len(view.pdf(format="A4")) < 10_000:
        yield "the PDF is empty"
    view.close()


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="folder for screenshots")
    parser.add_argument("--height", type=int, default=0, help="pixels of a screenshot, from the top; 0: all")
    args = parser.parse_args()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    faults = [fault for page in args.pages for fault in check(page, args.out, args.height)]
    print("\n".join(faults) or f"no fault in {len(args.pages)} pages")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
