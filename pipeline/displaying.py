"""Pictures that show themselves in notebooks (Jupyter, VS Code, Colab), and one that changes while a drag runs.

No widgets and no JavaScript: a notebook asks an object for a PNG or a JPEG, and draws it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.errors import OutputError, UsageError
from pipeline.artifacts import write_bytes
from pipeline.pictures import enlarged, image_u8, jpeg_bytes, png_bytes, preview

MAX_SIDE_PX = 1024
"""Of what a notebook is given to draw, and keeps in its file."""
EXACT_SIDE_PX = 256
"""Pictures up to this size are shown without loss, larger ones as JPEG: a notebook keeps every picture in its file."""
QUALITY = 85
WRITERS = {".png": png_bytes, ".jpg": jpeg_bytes, ".jpeg": jpeg_bytes}


class Picture:
    """A picture that a notebook draws when a cell ends with it; `pixels` is [h, w, 3] uint8 sRGB, at its own size.

    Small ones are drawn enlarged, large ones reduced to `MAX_SIDE_PX`.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise UsageError(
                f"A picture is {pixels.dtype} of shape {list(pixels.shape)}: allowed is uint8 of [height, width, 3]."
            )
        self.pixels = pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def save(self, path: Path | str) -> Path:
        """Write it as PNG or JPEG at its own size; UsageError for another suffix, OutputError when it cannot be."""
        path = Path(path)
        writer = WRITERS.get(path.suffix.lower())
        if writer is None:
            raise UsageError(f"A picture cannot be saved as {path.name}: allowed are .png, .jpg and .jpeg.")
        if not path.absolute().parent.is_dir():
            raise OutputError(f"{path} cannot be written: its folder is not there; make it first.")
        write_bytes(path, writer(self.pixels))
        return path

    def _shown(self) -> NDArray[np.uint8]:
        """As it is drawn: a narrow strip is not enlarged beyond the bound either."""
        large = enlarged(preview(self.pixels, MAX_SIDE_PX))
        return preview(large, MAX_SIDE_PX)

    def _repr_png_(self) -> bytes | None:
        """A small picture without loss; None for one that is shown as JPEG."""
        shown = self._shown()
        return png_bytes(shown) if max(shown.shape) <= EXACT_SIDE_PX else None

    def _repr_jpeg_(self) -> bytes | None:
        """A picture that would be large as PNG; None for a small one."""
        shown = self._shown()
        return jpeg_bytes(shown, quality=QUALITY) if max(shown.shape) > EXACT_SIDE_PX else None

    def __repr__(self) -> str:
        width, height = self.size
        return f"<picture of {width} x {height} pixels>"


def picture(image: Tensor | NDArray[np.uint8]) -> Picture:
    """What a generator drew, [N, 3, R, R] about [-1, 1] (its first picture), or [h, w, 3] uint8, to look at.

    UsageError for anything else.
    """
    if not isinstance(image, Tensor):
        return Picture(np.asarray(image))
    if image.ndim != 4 or image.shape[1] != 3 or not len(image):
        raise UsageError(f"A picture is a tensor of shape {list(image.shape)}: allowed is [N, 3, R, R] in [-1, 1].")
    return Picture(image_u8(image))


class LivePicture:
    """One picture of a notebook that changes: `update` draws it the first time, and then in the same place.

    Outside a notebook there is nothing to draw on, and `update` prints its line.
    """

    def __init__(self) -> None:
        self._display = _display_function()
        self._handle: Any = None

    @property
    def visible(self) -> bool:
        """Whether there is a notebook that draws the pictures."""
        return self._display is not None

    def update(self, shown: Picture | Tensor | NDArray[np.uint8], line: str) -> None:
        """Show another picture, or print `line` where none can be shown."""
        if self._display is None:
            print(line)
            return
        found = shown if isinstance(shown, Picture) else picture(shown)
        if self._handle is None:
            self._handle = self._display(found, display_id=True)
        else:
            self._handle.update(found)


def _display_function() -> Any:
    """IPython's `display` where a notebook is running, None anywhere else."""
    try:
        from IPython.core.getipython import get_ipython
        from IPython.display import display
    except ImportError:
        return None
    return None if get_ipython() is None else display
