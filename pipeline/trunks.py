"""The trunks of LPIPS as published by torchvision, without their classifiers."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import torch

from data.errors import ModelError

KEPT_PREFIX = "features."


def convolutions_only(path: Path) -> bytes:
    """A torchvision state dict read from `path`, as a file that holds its convolutions (`features.*`) alone.

    Raises ModelError when there are none. The classifier is nine tenths of the file, and LPIPS never looks at it.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kept = {name: tensor.detach().clone() for name, tensor in state.items() if name.startswith(KEPT_PREFIX)}
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is not a state dict of torchvision ({error}).") from error
    if not kept:
        raise ModelError(f"{path} holds no weights whose name begins with {KEPT_PREFIX}")
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    return buffer.getvalue()
