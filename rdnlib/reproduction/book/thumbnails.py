"""Small images in a page: JPEGs written into its HTML, a tenth of what a plot of them takes."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

STYLE = """<style>
.rdn-sheet{display:grid;gap:.2rem .8rem;align-items:center;max-width:34rem}
.rdn-sheet>div{display:flex;flex-wrap:wrap;gap:3px}
.rdn-sheet img{width:48px;height:48px;margin:0;image-rendering:auto}
@media(min-width:500px){.rdn-sheet{grid-template-columns:auto 1fr}}
</style>"""


def thumbnail(image: np.ndarray, *, side: int | None = None, kind: str = "jpeg", quality: int = 85) -> str:
    """An image uint8 (3, H, W) as a data URI, `side` pixels wide and high or as it is."""
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture = picture if side is None else picture.resize((side, side), Image.Resampling.LANCZOS)
    picture.save(buffer, kind, quality=quality)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def contact_sheet(rows: Mapping[str, Sequence[np.ndarray]], *, caption: str = "") -> str:
    """HTML of a figure: images uint8 (3, H, W) in rows, each behind its name."""
    cells = []
    for name, images in rows.items():
        shown = "".join(f'<img alt="" src="{thumbnail(image)}">' for image in images)
        cells.append(f"<span>{html.escape(name)}</span><div>{shown}</div>")
    return f'<figure class="rdn-figure">{STYLE}<div class="rdn-sheet">{"".join(cells)}</div><figcaption>{caption}</figcaption></figure>'
