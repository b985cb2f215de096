"""The page's style sheet: light and dark, narrow and wide, on paper."""

CSS = """\
:root { --paper: #ffffff; --panel: #f5f7f9; --ink: #1f2328; --muted: #5b6570; --grid: #d8dde3; --main: #0072b2;
  --second: #b84e00; --third: #00785a; --fourth: #a0357a; --fifth: #7a5c00; --sixth: #4b5563; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --panel: #1d232a; --ink: #e6e9ec; --muted: #a3adb8; --grid: #38414b; --main: #5ab4e5;
    --second: #f09a56; --third: #3fc59b; --fourth: #e58ac4; --fifth: #d8b84a; --sixth: #b4bcc6; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1rem 3rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; padding-top: 0.9rem; border-top: 1px solid var(--grid); }
p { max-width: 46rem; margin: 0.7rem 0; overflow-wrap: anywhere; }
code { font: 0.9em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.2rem, 1fr)); gap: 0.6rem; margin: 0; }
.tiles div { background: var(--panel); border-radius: 0.4rem; padding: 0.6rem 0.8rem; display: flex;
  flex-direction: column-reverse; justify-content: flex-end; }
.tiles dt { color: var(--muted); font-size: 0.85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-weight: 650; font-variant-numeric: tabular-nums; }
a { color: var(--main); }
nav ul { display: flex; flex-wrap: wrap; gap: 0 1.2rem; margin: 1rem 0 0; padding: 0; list-style: none; }
nav a { display: inline-block; padding: 0.25rem 0; }
pre { background: var(--panel); border-radius: 0.4rem; padding: 0.7rem 0.9rem; margin: 0.7rem 0; overflow-x: auto;
  font: 0.85rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.verdict { border-left: 0.3rem solid var(--main); background: var(--panel); padding: 0.6rem 0.9rem;
  font-size: 1.05rem; }
figure { margin: 0.6rem 0 1rem; max-width: 29rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; }
figure text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
figcaption { color: var(--muted); font-size: 0.85rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 1.5rem; }
.pair > * { min-width: 0; }
.scroll { overflow-x: auto; margin: 0.8rem 0; }
.scroll:focus-visible, pre:focus-visible, a:focus-visible, summary:focus-visible {
  outline: 2px solid var(--main); outline-offset: 2px; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); font-size: 0.85rem; padding-bottom: 0.3rem;
  max-width: calc(100vw - 2rem); }
th, td { text-align: right; padding: 0.28rem 0 0.28rem 1.1rem; border-bottom: 1px solid var(--grid);
  white-space: nowrap; }
thead th { color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tbody th { font-weight: 400; white-space: normal; min-width: 7rem; max-width: 20rem; overflow-wrap: anywhere; }
.total tr:last-child > * { font-weight: 650; border-bottom: 0; }
.words td, .words thead th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--muted); padding: 0.3rem 0; }
@media (max-width: 40rem) {
  body { padding: 0.75rem 0.75rem 2rem; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  th, td { padding-left: 0.7rem; }
}
@media print {
  :root { --paper: #ffffff; --panel: #f5f7f9; --ink: #000000; --muted: #444444; --grid: #bbbbbb; --main: #0072b2;
    --second: #b84e00; --third: #00785a; --fourth: #a0357a; --fifth: #7a5c00; --sixth: #4b5563; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { break-after: avoid; }
  nav { display: none; }
  pre { white-space: pre-wrap; }
  figure, tr, .tiles, .scroll { break-inside: avoid; }
  .scroll { overflow: visible; }
  @page { margin: 1.6cm; }
}
"""
