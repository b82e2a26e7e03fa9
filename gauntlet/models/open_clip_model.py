"""A CLIP model of open_clip as a zero-shot classifier: the class whose prompt is nearest (Radford et al. 2021)."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gauntlet.errors import UserError, reason
from gauntlet.models.author_preprocessing import Declared, triple
from gauntlet.models.model_hub import hub
from gauntlet.models.optional import needed
from gauntlet.models.wrapped import Wrapped


class ZeroShot(nn.Module):
    """An image encoder and the direction of each class: logits are scaled cosines (arXiv 2103.00020)."""

    text: Tensor

    def __init__(self, visual: nn.Module, text: Tensor, scale: float) -> None:
        super().__init__()
        self.visual, self.scale = visual, scale
        self.register_buffer("text", text)

    def forward(self, x: Tensor) -> Tensor:
        """Normalized images [B, 3, H, W] to logits [B, classes]."""
        return self.scale * F.normalize(self.visual(x), dim=-1) @ self.text.T


class OpenClipModel(Wrapped):
    """A zero-shot classifier that gets pixels as the author of the CLIP model meant it to.

    Args:
        name: of the architecture, such as ViT-B-32, or hf-hub:owner/name.
        labels: names of the classes in the order of their numbers: a list, or a text file with one on each line.
        classes: number of classes; there must be as many labels.
        channels: of the images; grey ones are repeated.
        size: height and width of the images.
        weights: a tag of open_clip such as openai, or a file.
        prompts: templates in which {} stands for a label; the directions of several are averaged.
        mean, std, resize, interpolation, crop: null: as the model's configuration says. Images of the size that it
            takes are not resized; a resize of 0 leaves all as they are.

    Raises:
        UserError: open_clip is not installed, the model or its weights cannot be had, or the labels do not fit.
    """

    def __init__(
        self,
        labels: Any,
        classes: int,
        name: str = "ViT-B-32",
        channels: int = 3,
        size: int = 224,
        weights: str | None = None,
        prompts: Sequence[str] = ("a photo of a {}.",),
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resize: int | None = None,
        interpolation: str | None = None,
        crop: int | None = None,
    ) -> None:
        words = _words(labels)
        if len(words) != classes:
            raise UserError(f"model.labels has {len(words)} names, the data set {classes} classes; give one for each")
        if not prompts or any("{}" not in prompt for prompt in prompts):
            raise UserError("each of model.prompts must hold {}, where the name of the class stands")
        if weights is None:
            raise UserError("model.weights is missing: a tag of open_clip such as openai, or a file; others are random")
        clip, tokenizer = _loaded(name, weights)
        declared = declared_by(clip, f"configuration of {name}")
        given = {"mean": mean, "std": std, "resize": resize, "interpolation": interpolation, "crop": crop}
        head = ZeroShot(clip.visual, directions(clip, tokenizer, words, prompts), float(clip.logit_scale.exp()))
        super().__init__(head, channels=channels, **declared.for_images(size, given))
        self.origin = f"zero-shot {name} of open_clip ({Path(weights).name})"
        self.declared, self.expects = declared.text(given), declared


@torch.no_grad()
def directions(clip: Any, tokenizer: Any, words: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Return the unit direction of each class, the mean over its prompts [classes, features]."""
    clip.eval()
    each = [
        F.normalize(clip.encode_text(tokenizer([prompt.format(word) for prompt in prompts])), dim=-1) for word in words
    ]
    return F.normalize(torch.stack([features.mean(0) for features in each]), dim=-1)


def declared_by(clip: Any, source: str) -> Declared:
    """Return what the configuration of a CLIP model says of pixels."""
    config = clip.visual.preprocess_cfg
    size = config["size"]
    side = int(size[0] if isinstance(size, Sequence) else size)
    mean, std = (triple(config[key], key, source) for key in ("mean", "std"))
    return Declared(source, mean, std, side, side, str(config.get("interpolation", "bicubic")))


def _words(labels: Any) -> list[str]:
    if isinstance(labels, str):
        path = Path(labels).expanduser()
        try:
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as cause:
            raise UserError(
                f"model.labels: {path} cannot be read ({reason(cause)}); write one name on a line"
            ) from None
    return [str(label) for label in labels]


def _loaded(name: str, weights: str) -> tuple[Any, Any]:
    open_clip = needed("open_clip", "open_clip", "open_clip")
    try:
        file = Path(weights).expanduser()
        with nullcontext() if file.is_file() and not name.startswith("hf-hub:") else hub():
            clip = open_clip.create_model(name, pretrained=str(file) if file.is_file() else weights)
            return clip, open_clip.get_tokenizer(name)
    except Exception as cause:  # the hub, files and configurations raise many types
        raise UserError(
            f"open_clip cannot give {name} with {weights} ({reason(cause)}); without network give a file: "
            "model.weights=FILE"
        ) from None
