"""The generator's own figures: how near its faces are to photographs, and whether they copy the training faces.

    python benchmarks/generator.py --faces FOLDER [--generator FILE] [--json FILE] [--quick]

Frechet distances of dlib's face descriptors are taken against all train faces with 100 images on the tested side, as a
mean over 20 draws, so that generated, validation and train pictures carry the same small-sample bias.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works in a checkout that is not installed

import torch
from torch import Tensor

from data.faces import load_faces
from inversion.generators.checkpoint import load_generator
from inversion.training.metrics import descriptors, frechet_distance
from pipeline.models import embedded_generator, read_face_network

DRAWN_IMAGES, DRAWS = 100, 20


def generated(path: Path, count: int) -> Tensor:
    """`count` images at psi 1 from seed 1, [N, 3, R, R] in [-1, 1]."""
    generator, _ = load_generator(path)
    z = torch.randn(count, generator.z_dim, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return torch.cat([generator.synthesize(generator.map(part)) for part in z.split(25)]).clamp(-1, 1)


def photographs(folder: Path, resolution: int, split: str) -> Tensor:
    """All pictures of one split, [N, 3, R, R] in [-1, 1]."""
    return torch.from_numpy(load_faces(folder, resolution, split)).permute(0, 3, 1, 2).float() / 127.5 - 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder of aligned faces with a MANIFEST.csv")
    parser.add_argument("--generator", type=Path, help="a generator file instead of the embedded one")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="200 generated images instead of 500")
    options = parser.parse_args(arguments)
    images = generated(options.generator or embedded_generator(), 200 if options.quick else 500)
    network = read_face_network(torch.device("cpu"))
    train = descriptors(network, photographs(options.faces, images.shape[-1], "train"))
    sides = {
        "generated": descriptors(network, images),
        "val": descriptors(network, photographs(options.faces, images.shape[-1], "val")),
        "train": train,
    }
    rng = torch.Generator().manual_seed(0)
    figures: dict[str, float] = {}
    for name, side in sides.items():
        draws = [side[torch.randperm(len(side), generator=rng)[:DRAWN_IMAGES]] for _ in range(DRAWS)]
        figures[f"frechet_{name}"] = sum(frechet_distance(draw, train) for draw in draws) / DRAWS
    for name in ("generated", "val"):
        nearest = torch.cdist(sides[name], train).min(dim=1).values
        for label, quantile in (("median", 0.5), ("p5", 0.05), ("least", 0.0)):
            figures[f"nearest_{name}_{label}"] = float(nearest.quantile(quantile))
    for key, value in figures.items():
        print(f"{key:28s} {value:8.4f}")
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
