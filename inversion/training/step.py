"""One adversarial step, the averaged generator, and growth by one resolution."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inversion.generators.protocol import NoiseMode
from inversion.generators.stylegan2 import StyleGAN2
from inversion.identity import CHIP_SIZE_PX, FaceNetwork
from inversion.training.anchor import SIDE_PX, PictureModel, anchor_loss
from inversion.training.augment import AugmentDraw, AugmentSettings, augment, draw_augment, tightened
from inversion.training.discriminator import ProjectedDiscriminator, r1_penalty
from inversion.training.guards import spectrum_loss, spread_loss, spread_statistics

HEAD_WEIGHT = 0.5
"""Of a head against the pixel branch: each head judges half of a batch."""
PATCH_WEIGHT = 0.5
"""Of the pixel branch's patches against its verdict on the whole picture."""
WARMUP_BATCHES = 2
"""Batches in one step of the warm-up, which is cheap: it computes neither fine blocks nor face features."""


@dataclass(frozen=True, slots=True)
class GanSettings:
    """Rates and weights of the adversarial game; `r1_weight` 0 leaves the gradient penalty out.

    `anchor_weight` holds each z to its coarse picture (see `anchor`), alone for the first `warmup_images`.

    `mixing_share` of the images take the layers finer than 16 px, from a random one on, from another latent (style
    mixing, Karras et al. 2019). Both rates fall along a half cosine to a tenth between the two counts of
    `decay_images`. `bf16` runs convolutions in bfloat16; weights, colours and losses stay float32.

    `noise_limit` bounds the strength of the noise inputs. At the usual strength a young generator draws features out of
    noise speckles and stops there; at 0 detail stays in the latents, where inversion and dragging reach it.
    """

    lr_generator: float = 3e-3
    lr_discriminator: float = 1e-3
    pixel_weight: float = 2.0
    r1_weight: float = 0.0
    r1_every: int = 8
    spread_weight: float = 1.0
    spectrum_weight: float = 20.0
    anchor_weight: float = 150.0
    warmup_images: int = 20_000
    lr_warmup: float = 1.5e-2
    mixing_share: float = 0.0
    decay_images: tuple[int, int] = (0, 0)
    ema_images: float = 5000.0
    noise_limit: float = 0.0
    bf16: bool = False
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


@dataclass(frozen=True, eq=False, slots=True)
class Game:
    """What stays the same from step to step: the frozen face network, the coarse picture model, the photographs'
    `log_spectrum`, rates and weights."""

    face_network: FaceNetwork
    model: PictureModel
    spectrum: Tensor
    settings: GanSettings


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """What the discriminator sees of a batch: augmented pixels [N, 3, R, R], the taps of the face network, descriptors
    [N, 128]; the face network saw the first `tight` images closer."""

    pixels: Tensor
    taps: list[Tensor]
    faces: Tensor
    tight: int

    def detached(self) -> View:
        """The same without the generator's graph."""
        return View(self.pixels.detach(), [tap.detach() for tap in self.taps], self.faces.detach(), self.tight)


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


def draw_latents(
    generator: StyleGAN2, batch: int, mixing_share: float, rng: torch.Generator, device: torch.device
) -> tuple[Tensor, Tensor]:
    """z [N, z_dim] and its mapped latents [N, num_ws, w_dim], some mixed in their fine layers; updates w_avg."""
    z = torch.randn(batch, generator.z_dim, generator=rng).to(device)
    ws = generator.map(z)
    with torch.no_grad():
        generator.mapping.w_avg.lerp_(ws[:, 0].mean(dim=0), 0.005)
    first = min(generator.ws_used_by(min(SIDE_PX, generator.resolution)), generator.num_ws - 1)
    cut = torch.randint(first, generator.num_ws, (batch,), generator=rng)
    cut[torch.rand(batch, generator=rng) >= mixing_share] = generator.num_ws
    other = ws.roll(1, dims=0)
    kept = (torch.arange(generator.num_ws) < cut[:, None]).to(device)
    return z, torch.where(kept[:, :, None], ws, other)


def train_step(state: GanState, reals: Tensor, game: Game, rng: torch.Generator) -> dict[str, float]:
    """One step of the run: the picture model alone for the first `warmup_images`, then the game as well."""
    settings = game.settings
    warming = state.images < settings.warmup_images
    decay = rate_factor(state.images, settings.decay_images)
    for group in state.opt_generator.param_groups:
        group["lr"] = settings.lr_warmup if warming else decay * settings.lr_generator
    for group in state.opt_discriminator.param_groups:
        group["lr"] = decay * settings.lr_discriminator
    if warming:
        return warmup_step(state, WARMUP_BATCHES * len(reals), game, rng)
    return gan_step(state, reals, game, rng)


def rate_factor(images: int, decay_images: tuple[int, int]) -> float:
    """1 up to the first count, 0.1 from the second on, a half cosine between; (0, 0) never falls."""
    start, end = decay_images
    if end <= start:
        return 1.0
    along = min(max((images - start) / (end - start), 0.0), 1.0)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * along))


def warmup_step(state: GanState, batch: int, game: Game, rng: torch.Generator) -> dict[str, float]:
    """Fit the blocks up to 16 px to the coarse picture of each z: placed, coloured and varied heads before any game."""
    z, ws = draw_latents(state.generator, batch, 0.0, rng, state.generator.w_avg.device)
    side = min(SIDE_PX, state.generator.resolution)
    loss = anchor_loss(state.generator.running_image(ws, side, noise_mode="none"), z, game.model)
    state.opt_generator.zero_grad(set_to_none=True)
    loss.backward()
    state.opt_generator.step()
    _count_step(state, batch, game.settings)
    return {"anchor": float(loss.detach())}


def gan_step(state: GanState, reals: Tensor, game: Game, rng: torch.Generator) -> dict[str, float]:
    """Update generator and discriminator once, on one shared batch of fakes.

    reals [N, 3, R, R] in [-1, 1]. Both players use the same forward pass of the frozen network: the generator's
    gradient is taken before the discriminator moves, so one pass serves two updates. Returns figures for the log.
    """
    device, n, settings = reals.device, reals.shape[0], game.settings
    low = torch.autocast(device.type, dtype=torch.bfloat16, enabled=settings.bf16)
    draw_fake, draw_real = (draw_augment(n, settings.augment, rng, device) for _ in range(2))
    z, ws = draw_latents(state.generator, n, settings.mixing_share, rng, device)
    noise_mode: NoiseMode = "random" if settings.noise_limit else "none"
    with low:
        fakes = state.generator.synthesize(ws, noise_mode=noise_mode, rng=_noise_rng(rng, device))
        seen_fake = _view(fakes, draw_fake, game)
        with torch.no_grad():
            seen_real = _view(reals, draw_real, game)
            spread = spread_statistics(reals, seen_real.taps)
            state.spread = spread if not len(state.spread) else state.spread.lerp(spread, 0.02)

        state.discriminator.requires_grad_(False)
        *heads, patches, whole = (logit.float().mean() for logit in _logits(state.discriminator, seen_fake))
        loss_g = -HEAD_WEIGHT * sum(heads) - settings.pixel_weight * (whole + PATCH_WEIGHT * patches)
        loss_spread = spread_loss(spread_statistics(fakes, seen_fake.taps), state.spread)
    loss_anchor, loss_spectrum = anchor_loss(fakes, z, game.model), spectrum_loss(fakes, game.spectrum)
    state.opt_generator.zero_grad(set_to_none=True)
    guards = settings.spread_weight * loss_spread + settings.spectrum_weight * loss_spectrum
    (loss_g + guards + settings.anchor_weight * loss_anchor).backward()

    state.discriminator.requires_grad_(True)
    with low:
        on_real, on_fake = (_logits(state.discriminator, seen) for seen in (seen_real, seen_fake.detached()))
    loss_d = _hinge(on_real, on_fake)
    loss_r1 = torch.zeros((), device=device)
    if settings.r1_weight and state.step % settings.r1_every == 0:
        loss_r1 = r1_penalty(state.discriminator.pixel, seen_real.pixels)
    state.opt_discriminator.zero_grad(set_to_none=True)
    (loss_d + 0.5 * settings.r1_weight * settings.r1_every * loss_r1).backward()

    state.opt_generator.step()
    state.opt_discriminator.step()
    for module in (state.generator, state.average):
        _limit_noise(module, settings.noise_limit)
    _count_step(state, n, settings)
    figures = {"g": loss_g, "d": loss_d, "r1": loss_r1, "anchor": loss_anchor}
    figures |= {"spread": loss_spread, "spectrum": loss_spectrum}
    return {name: float(value.detach()) for name, value in figures.items()}


def _view(images: Tensor, draw: AugmentDraw, game: Game) -> View:
    """Images [N, 3, R, R] as the discriminator sees them; the face network gets the tight views of the same draw."""
    pixels = augment(images, draw, images.shape[-1])
    share = game.settings.augment.tight_share
    taps = game.face_network.taps(augment(images, tightened(draw, share), CHIP_SIZE_PX))
    return View(pixels, taps, game.face_network.descriptor_of(taps[-1]), round(share * len(images)))


def _logits(discriminator: ProjectedDiscriminator, seen: View) -> list[Tensor]:
    """The logits of each head, those of the pixel branch (patches, whole) last."""
    return [*discriminator.head_logits(seen.taps, seen.faces, seen.tight), *discriminator.pixel(seen.pixels)]


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
    losses = [F.relu(1 - a.float()).mean() + F.relu(1 + b.float()).mean() for a, b in zip(real, fake, strict=True)]
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
