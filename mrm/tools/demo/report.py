"""A run as one HTML page that needs nothing else; with pictures where matplotlib is installed."""

import json
from datetime import datetime
from html import escape
from pathlib import Path

from mrm.tools.demo.results import Outcome
from mrm.tools.demo.words import moved, rows, setting, stale_access, verdict

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>mrm demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222;
  max-width: 70rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin-bottom: .3rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
td {{ padding: .25rem .7rem; border-bottom: 1px solid #ddd; vertical-align: top; white-space: pre-wrap; }}
td.figure {{ text-align: right; font-weight: 600; white-space: nowrap; }}
p.verdict {{ font-size: 1.1rem; font-weight: 600; border-left: 4px solid; padding-left: .7rem; }}
.held {{ color: #0072B2; }} .failed {{ color: #B33C00; }} .dim {{ color: #666; }}
svg {{ max-width: 100%; height: auto; }} .wide {{ overflow-x: auto; }}
pre {{ overflow-x: auto; font-size: 12px; }}
</style></head><body>
<h1>Pages moved under working threads: {moved}</h1>
<p class="dim">{setting}</p>
<p class="verdict {mood}">{verdict}</p>
{body}
</body></html>
"""

_CYCLE = """What a cycle does: it walks the handles and marks what is live (<i>mark</i>), waits until
every mutator has passed a checkpoint (<i>settle</i>), opens the next view (<i>open</i>), publishes it and
waits for checkpoints again (<i>flip</i>), takes the old view away, so that stale addresses trap
(<i>retire</i>), and copies what lives in the sparsest frames, which are used again at once
(<i>relocate</i>). Mutators work all the while."""


def write(outcome: Outcome, folder: Path) -> Path:
    """Write the page, and the figures as JSON beside it; the page's path.

    Parameters
    ----------
    outcome : Outcome
        The run.
    folder : Path
        Where to; it is made if need be. Names carry the time, so nothing is written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    page = name.with_suffix(".html")
    page.write_text(
        _PAGE.format(
            moved=escape(moved(outcome)),
            setting=escape(setting(outcome)),
            mood="held" if outcome.held else "failed",
            verdict=escape(verdict(outcome)),
            body="\n".join(_sections(outcome)),
        ),
        encoding="utf-8",
    )
    name.with_suffix(".json").write_text(json.dumps(outcome.figures(), indent=1) + "\n")
    return page


def _sections(outcome: Outcome) -> list[str]:
    sections = [_table(outcome)]
    if outcome.stale is not None:
        sections.append(f"<p>{escape(stale_access(outcome.stale))}</p>")
    sections += [f"<p>{escape(note)}</p>" for note in outcome.notes]
    try:
        from mrm.tools.demo.plots import plots
    except ImportError as missing:
        sections.append(f'<p class="dim">No pictures: {escape(str(missing))} (extra "bench").</p>')
    else:
        for caption, svg in plots(outcome).items():
            sections += [f"<h2>{escape(caption)}</h2>", f'<div class="wide">{svg}</div>']
    sections.append(f'<p class="dim">{_CYCLE}</p>')
    encoded = outcome.latency.encoded()
    if encoded:
        sections += [
            '<details><summary class="dim">All operations as an HDR histogram (V2, base64)</summary>',
            f"<pre>{escape(encoded)}</pre></details>",
        ]
    return sections


def _table(outcome: Outcome) -> str:
    cells = "".join(
        f'<tr><td>{escape(name)}</td><td class="figure">{escape(figure)}</td>'
        f'<td class="dim">{escape(meaning)}</td></tr>'
        for name, figure, meaning in rows(outcome)
    )
    return f'<div class="wide"><table>{cells}</table></div>'
