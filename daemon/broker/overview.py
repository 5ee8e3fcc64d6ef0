"""The page of data drops: plain HTML, no script, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from daemon.broker.drops import Drop

SHOWN = 200
"""Drops on the page."""

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .8rem; border-bottom: 1px solid #8884; }
td.name { overflow-wrap: anywhere; }
td.size { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .85em; }
.stored { color: #2a7d3f; } .failed, .terminated { color: #c0392b; }
"""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP = 1024


def page(drops: Sequence[Drop]) -> str:
    """The whole page, newest drop first."""
    rows = "\n".join(_row(drop) for drop in drops)
    none = "" if drops else "<p>No data drop was announced yet.</p>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Data drops</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Data drops</h1>
{none}
<table>
<thead><tr><th>Announced</th><th>File</th><th>Size</th><th>State</th><th>Study</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p><a href="openapi.json">OpenAPI description</a></p>
</body>
</html>
"""


def rfc3339(moment: float) -> str:
    """A moment as the contract writes it, to the second."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _row(drop: Drop) -> str:
    said = drop.announcement
    state = escape(drop.state or "announced")
    return (
        f"<tr><td>{rfc3339(drop.announced_at)}</td>"
        f'<td class="name">{escape(str(said.get("filename", "")))}</td>'
        f'<td class="size">{_size(said.get("size"))}</td>'
        f'<td class="{state}">{state}</td>'
        f"<td><code>{escape(str(said.get('study', '')))}</code></td></tr>"
    )


def _size(size: object) -> str:
    if not isinstance(size, int):
        return "not known yet"
    value, unit = float(size), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"
