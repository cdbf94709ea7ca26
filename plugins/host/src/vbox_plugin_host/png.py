"""Pictures as PNG files: whole or not at all, never half written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from vbox_pdm import PdmError, Picture


def write_png(path: str | os.PathLike[str], picture: Picture) -> None:
    """Write `picture` beside `path` and rename it.  PdmError VERR_WRITE_ERROR with the reason."""
    import io

    from PIL import Image  # takes its time, and most runs make no picture

    buffer = io.BytesIO()
    Image.frombytes("RGB", (picture.width, picture.height), picture.rgb).save(buffer, "PNG")
    final = Path(path)
    fresh = final.with_name(f".{final.name}.{os.getpid()}.part")
    try:
        fresh.write_bytes(buffer.getvalue())
        fresh.replace(final)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise PdmError(
            "VERR_WRITE_ERROR",
            f"The picture of the screen cannot be written to {final}: {error.strerror or error}",
            "Check the folder, its permissions and its free space",
        ) from None
