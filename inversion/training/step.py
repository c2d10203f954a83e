"""One adversarial step, the averaged generator, and growth by one resolution."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inversion.generators.stylegan2 import StyleGAN2
from inversion.identity import CHIP_SIZE_PX, FaceNetwork
from inversion.training.anchor import SIDE_PX, PictureModel, anchor_loss
from inversion.training.augment import AugmentSettings, augment, draw_augment
from inversion.training.discriminator import ProjectedDiscriminator, r1_penalty

WARMUP_BATCHES = 2
"""Batches in one step of the warm-up, which is cheap: it computes neither fine blocks nor face features."""


@dataclass(frozen=True, slots=True)
class GanSettings:
    """Rates and weights of the adversarial game; `r1_weight` 0 leaves the gradient penalty out.

    `anchor_weight` holds each z to its coarse picture (see `anchor`), alone for the first `warmup_images`.

    `noise_limit` bounds the strength of the noise inputs. At the usual strength a young generator draws features out of
    noise speckles and stops there; at 0 detail stays in the latents, where inversion and dragging reach it.
    """

    lr_generator: float = 3e-3
    lr_discriminator: float = 1e-3
    pixel_weight: float = 2.0
    r1_weight: float = 0.0
    r1_every: int = 8
    spread_weight: float = 1.0
    anchor_weight: float = 150.0
    warmup_images: int = 20_000
    lr_warmup: float = 1.5e-2
    ema_images: float = 2000.0
    noise_limit: float = 0.0
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(eq=False, slots=True)
class GanState:
    """Everything that changes while training: resuming from it continues to the same weights."""

    generator: StyleGAN2
    average: StyleGAN2
    discriminator: ProjectedDiscriminator
    opt_generator: torch.optim.Adam
    opt_discriminator: torch.optim.Adam
    spread: Tensor
    step: int = 0
    images: int = 0


def new_state(generator: StyleGAN2, settings: GanSettings, device: torch.device) -> GanState:
    """A fresh state around a generator; the discriminator starts from the global seed."""
    generator = generator.to(device)
    discriminator = ProjectedDiscriminator(generator.resolution).to(device)
    betas = (0.0, 0.99)
    return GanState(
        generator,
        copy.deepcopy(generator).eval().requires_grad_(False),
        discriminator,
        torch.optim.Adam(generator.parameters(), lr=settings.lr_generator, betas=betas),
        torch.optim.Adam(discriminator.parameters(), lr=settings.lr_discriminator, betas=betas),
        torch.zeros(0, device=device),
    )


def draw_latents(generator: StyleGAN2, batch: int, rng: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
    """z [N, z_dim] and its mapped latents [N, num_ws, w_dim]; updates w_avg."""
    z = torch.randn(batch, generator.z_dim, generator=rng).to(device)
    ws = generator.map(z)
    with torch.no_grad():
        generator.mapping.w_avg.lerp_(ws[:, 0].mean(dim=0), 0.005)
    return z, ws


def spread_statistics(images: Tensor, taps: list[Tensor]) -> Tensor:
    """Standard deviations over the batch of pooled features and of the 8 px picture, one vector."""
    parts = [F.adaptive_avg_pool2d(tap, 2).flatten(1) for tap in taps[1:]]
    parts.append(F.adaptive_avg_pool2d(images, 8).flatten(1))
    return torch.cat([(p.var(dim=0) + 1e-6).sqrt() for p in parts])


def _spread_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """How far the spread of a generated batch falls short of the photographs' (a guard against collapse)."""
    return (F.relu(wanted - found) / (wanted + 1e-3)).mean()


def train_step(
    state: GanState,
    reals: Tensor,
    face_network: FaceNetwork,
    model: PictureModel,
    settings: GanSettings,
    rng: torch.Generator,
) -> dict[str, float]:
    """One step of the run: the picture model alone for the first `warmup_images`, then the game as well."""
    warming = state.images < settings.warmup_images
    for group in state.opt_generator.param_groups:
        group["lr"] = settings.lr_warmup if warming else settings.lr_generator
    if warming:
        return warmup_step(state, WARMUP_BATCHES * len(reals), model, settings, rng)
    return gan_step(state, reals, face_network, model, settings, rng)


def warmup_step(
    state: GanState, batch: int, model: PictureModel, settings: GanSettings, rng: torch.Generator
) -> dict[str, float]:
    """Fit the blocks up to 16 px to the coarse picture of each z: placed, coloured and varied heads before any game."""
    z, ws = draw_latents(state.generator, batch, rng, state.generator.w_avg.device)
    side = min(SIDE_PX, state.generator.resolution)
    loss = anchor_loss(state.generator.running_image(ws, side, noise_mode="none"), z, model)
    state.opt_generator.zero_grad(set_to_none=True)
    loss.backward()
    state.opt_generator.step()
    _count_step(state, batch, settings)
    return {"anchor": float(loss.detach())}


def gan_step(
    state: GanState,
    reals: Tensor,
    face_network: FaceNetwork,
    model: PictureModel,
    settings: GanSettings,
    rng: torch.Generator,
) -> dict[str, float]:
    """Update generator and discriminator once, on one shared batch of fakes.

    reals [N, 3, R, R] in [-1, 1]. Both players use the same forward pass of the frozen network: the generator's
    gradient is taken before the discriminator moves, so one pass serves two updates. Returns figures for the log.
    """
    device, n = reals.device, reals.shape[0]
    generator, discriminator, r = state.generator, state.discriminator, state.generator.resolution
    draw_fake, draw_real = (draw_augment(n, settings.augment, rng, device) for _ in range(2))
    z, ws = draw_latents(generator, n, rng, device)
    fakes = generator.synthesize(ws, noise_mode="random", rng=_noise_rng(rng, device))
    fake_pixels = augment(fakes, draw_fake, r)
    fake_taps = face_network.taps(augment(fakes, draw_fake, CHIP_SIZE_PX))
    with torch.no_grad():
        real_pixels = augment(reals, draw_real, r)
        real_taps = face_network.taps(augment(reals, draw_real, CHIP_SIZE_PX))
        spread = spread_statistics(reals, real_taps)
        state.spread = spread if not len(state.spread) else state.spread.lerp(spread, 0.02)

    discriminator.requires_grad_(False)
    loss_g = -sum(logit.mean() for logit in discriminator.head_logits(fake_taps))
    loss_g = loss_g - settings.pixel_weight * discriminator.pixel(fake_pixels).mean()
    loss_spread = _spread_loss(spread_statistics(fakes, fake_taps), state.spread)
    state.opt_generator.zero_grad(set_to_none=True)
    loss_anchor = anchor_loss(fakes, z, model)
    (loss_g + settings.spread_weight * loss_spread + settings.anchor_weight * loss_anchor).backward()

    discriminator.requires_grad_(True)
    detached = [tap.detach() for tap in fake_taps]
    loss_d = _hinge(discriminator.head_logits(real_taps), discriminator.head_logits(detached))
    loss_d = loss_d + _hinge([discriminator.pixel(real_pixels)], [discriminator.pixel(fake_pixels.detach())])
    loss_r1 = torch.zeros((), device=device)
    if settings.r1_weight and state.step % settings.r1_every == 0:
        loss_r1 = r1_penalty(discriminator.pixel, real_pixels)
    state.opt_discriminator.zero_grad(set_to_none=True)
    (loss_d + 0.5 * settings.r1_weight * settings.r1_every * loss_r1).backward()

    state.opt_generator.step()
    state.opt_discriminator.step()
    _limit_noise(generator, settings.noise_limit)
    _count_step(state, n, settings)
    figures = {"g": loss_g, "d": loss_d, "spread": loss_spread, "anchor": loss_anchor, "r1": loss_r1}
    return {name: float(value.detach()) for name, value in figures.items()}


def _count_step(state: GanState, batch: int, settings: GanSettings) -> None:
    state.step += 1
    state.images += batch
    _update_average(state, batch, settings)


@torch.no_grad()
def _limit_noise(generator: StyleGAN2, limit: float) -> None:
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            parameter.clamp_(-limit, limit)


def _noise_rng(rng: torch.Generator, device: torch.device) -> torch.Generator:
    seed = int(torch.randint(2**31, (1,), generator=rng))
    return torch.Generator(device=device).manual_seed(seed)


def _hinge(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    losses = [F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(real, fake, strict=True)]
    return torch.stack(losses).sum()


@torch.no_grad()
def _update_average(state: GanState, batch: int, settings: GanSettings) -> None:
    """Exponential average of the weights, its half-life growing to `ema_images` as training warms up."""
    half_life = min(settings.ema_images, max(state.images * 0.05, batch))
    decay = 0.5 ** (batch / half_life)
    for average, current in zip(state.average.parameters(), state.generator.parameters(), strict=True):
        average.lerp_(current, 1.0 - decay)
    for held, buffer in zip(state.average.buffers(), state.generator.buffers(), strict=True):
        held.copy_(buffer)


def grow(generator: StyleGAN2) -> StyleGAN2:
    """A generator of twice the resolution that gives the same picture, upsampled: its new block's colour is zero."""
    config = replace(generator.config, resolution=2 * generator.resolution)
    grown = StyleGAN2(config)
    grown.load_state_dict(generator.state_dict(), strict=False)
    torgb = grown.synthesis.block(config.resolution).torgb
    nn.init.zeros_(torgb.weight)
    return grown
