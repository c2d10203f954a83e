"""Train the embedded generator: `python -m pipeline.train --faces FOLDER --out FOLDER`. Resumes where it was killed."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.errors import PhotodragError
from data.faces import load_faces
from data.landmarks import model_path
from inversion.generators.checkpoint import load_generator, save_generator
from inversion.generators.stylegan2 import StyleGAN2, StyleGAN2Config
from inversion.identity import FaceNetwork, load_face_network
from inversion.training.anchor import SIDE_PX, fit_picture_model
from inversion.training.metrics import descriptors, frechet_distance
from inversion.training.state import load_state, save_state
from inversion.training.step import GanSettings, GanState, grow, new_state, train_step

COARSE_CONTRAST = 0.3
"""Scale of the untrained coarse colour layers: random ones add up to pictures far more garish than a photograph. The
finer ones start at zero, so that the game begins with the pictures that the warm-up has made."""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What to train, on what, for how long."""

    faces: Path
    out: Path
    resolution: int
    grow_from: Path | None
    images: int
    warmup_images: int
    batch: int
    channel_base: int
    channel_max: int
    z_dim: int
    w_dim: int
    seed: int
    device: str
    threads: int
    save_every_s: float
    report_every: int


def parse_arguments(argv: list[str] | None = None) -> TrainConfig:
    """Read the command line."""
    p = argparse.ArgumentParser(prog="python -m pipeline.train", description=__doc__)
    p.add_argument(
        "--faces", type=Path, required=True, help="folder of aligned faces; MANIFEST.csv picks split 'train'"
    )
    p.add_argument("--out", type=Path, required=True, help="training state, samples and log; resumed when it exists")
    p.add_argument("--resolution", type=int, default=64)
    p.add_argument("--grow-from", type=Path, help="generator file of half the resolution to start from")
    p.add_argument("--images", type=int, default=1_000_000, help="stop after this many photographs were shown")
    p.add_argument("--warmup-images", type=int, default=20_000, help="of the coarse picture model; none after growing")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--channel-base", type=int, default=3072)
    p.add_argument("--channel-max", type=int, default=192)
    p.add_argument("--z-dim", type=int, default=64)
    p.add_argument("--w-dim", type=int, default=256)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, default=0, help="CPU threads, 0 for all")
    p.add_argument("--save-every-s", type=float, default=300.0)
    p.add_argument("--report-every", type=int, default=4000, help="images between sample sheets")
    return TrainConfig(**vars(p.parse_args(argv)))


def build_generator(cfg: TrainConfig) -> StyleGAN2:
    """A random generator, or one grown from half the resolution."""
    if cfg.grow_from is not None:
        grown = grow(load_generator(cfg.grow_from)[0]).train().requires_grad_(True)
        if grown.resolution != cfg.resolution:
            raise PhotodragError(f"--grow-from gives {grown.resolution} px, but --resolution is {cfg.resolution}.")
        return grown
    generator = StyleGAN2(
        StyleGAN2Config(
            resolution=cfg.resolution,
            z_dim=cfg.z_dim,
            w_dim=cfg.w_dim,
            channel_base=cfg.channel_base,
            channel_max=cfg.channel_max,
            mapping_layers=2,
            mapping_lr_multiplier=1.0,
        )
    )
    for resolution in generator.block_resolutions:
        contrast = COARSE_CONTRAST if resolution <= SIDE_PX else 0.0
        generator.synthesis.block(resolution).torgb.weight.data.mul_(contrast)
    return generator


def draw_reals(faces: Tensor, batch: int, rng: torch.Generator, device: torch.device) -> Tensor:
    """A batch [N, 3, R, R] in [-1, 1] from uint8 faces [M, R, R, 3], half of them mirrored."""
    picks = torch.randint(len(faces), (batch,), generator=rng)
    images = faces[picks].permute(0, 3, 1, 2).to(device).float() / 127.5 - 1.0
    mirror = (torch.rand(batch, generator=rng) < 0.5).to(device)
    return torch.where(mirror[:, None, None, None], images.flip(3), images)


def step_rng(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step, so that a resumed run draws what the unbroken one would have drawn."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


@torch.no_grad()
def write_report(state: GanState, cfg: TrainConfig, network: FaceNetwork, reference: Tensor) -> dict[str, float]:
    """A sheet of 6 x 8 averaged samples (psi 0.7 in the upper half, 1 below), and figures of 500 samples."""
    device = state.generator.w_avg.device
    z = torch.randn(500, state.generator.z_dim, generator=step_rng(cfg.seed, -1)).to(device)
    images = []
    for i in range(0, 500, 50):
        images.append(state.average.synthesize(state.average.map(z[i : i + 50])))
    truncated = state.average.synthesize(state.average.map(z[:24], truncation_psi=0.7))
    rows = torch.cat([truncated, images[0][:24]]).clamp(-1, 1).add(1).mul(127.5).round().byte().cpu().numpy()
    tiles = rows.reshape(6, 8, 3, cfg.resolution, cfg.resolution).transpose(0, 3, 1, 4, 2)
    sheet = np.ascontiguousarray(tiles.reshape(6 * cfg.resolution, 8 * cfg.resolution, 3)[..., ::-1])
    cv2.imwrite(str(cfg.out / f"samples_{state.images:08d}.png"), sheet)
    found = descriptors(network, torch.cat(images))
    return {"frechet": frechet_distance(found, reference), "descriptor_std": float(found.std(0).mean())}


def train(cfg: TrainConfig, on_log: Callable[[dict[str, float]], None] | None = None) -> GanState:
    """Train until `cfg.images`; the state is saved every `save_every_s` seconds and at the end."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    device = torch.device(cfg.device)
    cfg.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(cfg.seed)
    settings = GanSettings(warmup_images=cfg.warmup_images if cfg.grow_from is None else 0)
    state = new_state(build_generator(cfg), settings, device)
    state_path = cfg.out / "state.safetensors"
    if state_path.is_file():
        load_state(state, state_path)
    network = load_face_network(model_path("dlib_face_recognition_resnet_model_v1.dat")).to(device)
    faces = torch.from_numpy(load_faces(cfg.faces, cfg.resolution, "train"))
    whole = [faces[i : i + 100].permute(0, 3, 1, 2).float().to(device) / 127.5 - 1 for i in range(0, len(faces), 100)]
    reference = torch.cat([descriptors(network, part) for part in whole])
    model = fit_picture_model(torch.cat(whole), state.generator.z_dim)
    del whole
    saved = time.monotonic()
    with tqdm(total=cfg.images, initial=state.images, unit="img", desc="train", mininterval=5.0) as bar:
        while state.images < cfg.images:
            rng = step_rng(cfg.seed, state.step)
            figures = train_step(state, draw_reals(faces, cfg.batch, rng, device), network, model, settings, rng)
            grown = state.images - bar.n
            bar.update(grown)
            if state.images % cfg.report_every < grown:
                figures |= write_report(state, cfg, network, reference) | {"images": state.images}
                bar.set_postfix({k: f"{v:.3g}" for k, v in figures.items()})
                with (cfg.out / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(figures | {"time": time.time()}) + "\n")
                if on_log is not None:
                    on_log(figures)
            if time.monotonic() - saved > cfg.save_every_s or state.images >= cfg.images:
                save_state(state, state_path)
                extra: dict[str, object] = {"images": state.images, "seed": cfg.seed, "settings": repr(settings)}
                save_generator(state.average, cfg.out / "generator.safetensors", extra)
                saved = time.monotonic()
    return state


def main() -> int:
    """Entry point."""
    try:
        train(parse_arguments())
    except PhotodragError as error:
        print(f"photodrag: {error}")
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command continues from the last saved state")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
