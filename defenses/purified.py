"""A purifier in front of a classifier: any network from images to images, after a random transform."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from gauntlet.defenses.base import Card, Defense
from gauntlet.knobs import knob
from gauntlet.threat_model.bpda import StandIn
from gauntlet.threat_model.rng import Rng
from gauntlet.threat_model.victim import Head, Victim, plain
from gauntlet.training.objectives.purification import RandomTransform, purified

LEAST = 20
"""Fewest draws of an honest gradient through a random transform."""


@dataclass(frozen=True)
class Purified(Defense):
    """f(g(t(x))): a random transform t, a purifier g, a classifier f.

    Lin et al. 2024, "Adversarial training on purification", arXiv 2401.16352, by default in small; with another
    `parts.purifier.model` any denoiser. The ball is that of the attacked image: g may resize it inside. The heads are
    those that broke such defenses: the whole pipeline, differentiated through g and averaged over draws (EOT); the
    pipeline with the identity in place of g and t in the backward pass (BPDA; Athalye et al. 2018, arXiv 1802.00420);
    and f alone.

    Args:
        parts: "model" is f, from pixels to logits; "purifier" is g, from pixels to pixels of the same form.
        transform: t, as in training.
        draws: transforms over which a gradient of a random head is averaged, >= 20 where t draws.

    Raises:
        UserError: other parts, a value out of range, or when called a purifier that gives images of another size.
    """

    card: ClassVar[Card] = Card(
        "A network behind a purifier that restores images after a random transform.",
        source="Lin et al. 2024, arXiv 2401.16352",
        claim="linf attacks by AutoAttack and BPDA with EOT",
        forwards=2.0,
        randomized=True,
        differs="no generative adversarial loss; a small purifier at the resolution of the images, where the ball is "
        "(the published one attacks images that were enlarged to 256 x 256 before)",
    )
    names: ClassVar[tuple[str, ...]] = ("model", "purifier")

    transform: RandomTransform = field(default_factory=RandomTransform)
    draws: int = knob(LEAST, least=LEAST, hint="with fewer the gradient of a random transform is noise")

    def deploy(self, models: Mapping[str, nn.Module]) -> Victim:
        network, purifier = models["model"], models["purifier"]

        def restored(x: Tensor, rng: Rng) -> Tensor:
            return purified(purifier, self.transform(x, rng.stream("transform")))

        def predict(x: Tensor, rng: Rng) -> Tensor:
            logits: Tensor = network(restored(x, rng))
            return logits

        def skipped(x: Tensor, rng: Rng) -> Tensor:
            logits: Tensor = network(StandIn(lambda z: restored(z, rng))(x))
            return logits

        random = self.transform.random
        draws = self.draws if random else 1
        heads = (Head("identity", skipped, draws=draws, stand_in=True), Head("network", plain(network)))
        return Victim(predict, (network, purifier), heads, randomized=random, draws=draws)
