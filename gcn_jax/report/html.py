"""What the sections of a report share: small pieces of HTML, and the page's style."""

import base64
from collections.abc import Iterable


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as "72.1 %"; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def missing(sentence: str) -> str:
    """A note in place of a chart or a picture."""
    return f'<p class="missing">{sentence}</p>'


def swatch(color: Iterable[int]) -> str:
    """A small square of a colour, RGB 0-255."""
    return f'<i class="swatch" style="background:rgb({",".join(str(part) for part in color)})"></i>'


def data_uri(kind: str, data: bytes) -> str:
    """An image file's content as the address of a picture; kind: "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


STYLE = """
:root { --page: #fff; --card: #f5f6f8; --text: #1b2330; --muted: #5a6575; --line: #d9dee6; --accent: #2b6cb8;
  --second: #b4631a; --right: #86b3ec; --wrong: #f09a88; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --text: #e5e9ef; --muted: #9ba7b6;
  --line: #333c49; --accent: #6aa6ee; --second: #dd9b4e; --right: #2a5c9c; --wrong: #a03d2c; } }
* { box-sizing: border-box; margin: 0; padding: 0; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { max-width: 1120px; margin: auto; padding: 32px 20px 64px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 48px 0 12px; }
h3 { font-size: 15px; font-weight: 400; margin: 24px 0 8px; }
h3 span { white-space: nowrap; }
h3 b { text-transform: capitalize; margin-right: 6px; }
header p, h3 span, figcaption, .chart p, section > p { color: var(--muted); font-size: 14px; }
section > p { margin-bottom: 8px; max-width: 75ch; }
nav { display: flex; flex-wrap: wrap; gap: 2px 16px; margin-top: 10px; font-size: 14px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.missing { padding: 16px; border: 1px dashed var(--line); border-radius: 8px; color: var(--muted); font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(5, 1fr); gap: 10px; }
.tiles div { background: var(--card); border-radius: 8px; padding: 14px 16px; }
.tiles div:first-child { grid-row: span 2; grid-column: span 2; padding: 20px 24px; align-content: center; }
.tiles dt { font-size: 14px; font-weight: 600; }
.tiles dd { font-size: 22px; line-height: 1.4; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles dd + dd { font-size: 12.5px; color: var(--muted); white-space: normal; }
.tiles div:first-child dt { font-size: 17px; }
.tiles div:first-child dd:nth-child(2) { font-size: 56px; font-weight: 600; letter-spacing: -.02em; line-height: 1.3; }
.box { width: fit-content; max-width: 100%; max-height: 90vh; overflow: auto; border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 7px 14px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
th:first-child { position: sticky; left: 0; background: var(--page); }
tbody th { font-weight: 400; white-space: normal; min-width: 7em; max-width: 24em; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--muted); font-weight: 600; white-space: normal; vertical-align: bottom; overflow-wrap: normal; }
tr[aria-current] > *, tr[aria-current] th { background: var(--card); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 24px; }
.charts .missing { align-self: start; }
.chart { container-type: inline-size; }
.chart figcaption { color: var(--text); font-weight: 600; }
svg { display: block; }
svg text { fill: currentColor; font-size: 11px; }
.chart svg { width: 100%; color: var(--muted); }
@container (min-width: 440px) { .chart svg text { font-size: 8.5px; } }
.grid { stroke: var(--line); }
.axis { stroke: var(--muted); }
.line { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round; }
circle, .column { fill: var(--accent); }
.dashed { fill: none; stroke: var(--second); stroke-width: 1.4; stroke-dasharray: 5 4; }
.key { display: flex; align-items: center; gap: 6px; }
.key i { width: 22px; height: 8px; background: var(--accent); border-radius: 2px; }
.key i + i { height: 4px; background: var(--second); margin-left: 12px; }
.classes { list-style: none; columns: 2 420px; column-gap: 40px; }
.classes li { display: flex; align-items: center; gap: 8px; padding: 3px 0; break-inside: avoid; font-size: 14px; }
.name { flex: 0 1 132px; line-height: 1.25; min-width: 0; }
.bars { flex: 1 1 80px; border-left: 1px solid var(--line); }
.bars i { display: block; height: 8px; border-radius: 0 2px 2px 0; background: var(--accent); }
.bars i + i { height: 4px; margin-top: 2px; background: var(--second); }
.number { flex: 0 0 54px; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.rim, .none { color: var(--muted); }
.swatch { flex: none; display: inline-block; width: 14px; height: 14px; border-radius: 3px;
  border: 1px solid var(--muted); }
.heat > div { display: grid; grid-template-columns: max-content max-content; width: max-content; }
.heat svg, .corner { background: var(--page); }
.corner { position: sticky; left: 0; top: 0; z-index: 2; padding: 8px; font-size: 12px; color: var(--muted); width: 0;
  min-width: 100%; align-content: end; white-space: nowrap; }
.columns { position: sticky; top: 0; z-index: 1; }
.rows { position: sticky; left: 0; z-index: 1; }
.rows text { text-anchor: end; }
.cells { border: solid var(--line); border-width: 1px 0 0 1px; box-sizing: content-box; }
.cells rect { fill: var(--wrong); }
.cells .right { fill: var(--right); }
.cells rect:hover { stroke: var(--text); opacity: 1; }
.cells text { text-anchor: middle; font-size: 10px; pointer-events: none; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(46%, 240px), 1fr)); gap: 10px; }
.pictures img { display: block; width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.pictures figure:first-child img { image-rendering: auto; }
.field { display: block; max-width: 100%; height: auto; margin-bottom: 12px; border-radius: 4px; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 6px 18px; font-size: 14px; }
.legend li { display: flex; align-items: center; gap: 6px; }
@media (max-width: 760px) {
  body { padding: 20px 16px 48px; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles div:first-child { grid-row: auto; }
  .name { flex-basis: 30%; }
  tbody th { max-width: 38vw; }
}
"""
