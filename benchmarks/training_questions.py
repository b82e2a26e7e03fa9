"""What is asked of the methods of training, and the trainings that answer it on data that one core can work through."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Effect:
    """A question, and the trainings that answer it; every arm is compared with the first.

    judged: how many images of the test part, and as many of those of the training, are attacked; steps: of those PGDs;
    also: columns of the table beside the usual ones: heading -> what is measured, such as `last_ce`, the field `ce` of
    `Judged` for the last weights.
    """

    question: str
    eps: str
    images: int
    settings: tuple[str, ...]
    arms: dict[str, tuple[str, ...]]
    judged: int = 360
    steps: int = 30
    also: tuple[tuple[str, str], ...] = ()


def _digits(
    question: str,
    eps: str,
    images: int,
    epochs: int,
    arms: dict[str, tuple[str, ...]],
    also: tuple[tuple[str, str], ...] = (),
) -> Effect:
    settings = (
        "dataset=digits", "model=small_cnn", f"dataset.budgets.linf={eps}", f"recipe.epochs={epochs}",
        "recipe.schedule=step", "recipe.weight_decay=5e-4", "recipe.warmup=0", "recipe.learning_rate=0.1",
        "recipe.selection.limit=200", "recipe.selection.steps=5",
    )  # fmt: skip
    return Effect(question, eps, images, settings, arms, also=also)


def _cifar(shared: Path, question: str, eps: str, images: int, epochs: int, arms: dict[str, tuple[str, ...]]) -> Effect:
    settings = (
        "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        "dataset.size=16", "dataset.resize=16", "model=preact_resnet18", "model.width=8",
        f"dataset.budgets.linf={eps}", f"recipe.epochs={epochs}",
        "recipe.schedule=step", "recipe.warmup=0", "recipe.learning_rate=0.1", "recipe.weight_decay=5e-4",
        "recipe.batch_size=20", "recipe.selection.limit=100", "recipe.selection.steps=3",
        "recipe.selection.step_size=0.5",
    )  # fmt: skip
    return Effect(question, eps, images, settings, arms, judged=300, steps=20)


def _photographs(
    shared: Path, question: str, images: int, epochs: int, arms: dict[str, tuple[str, ...]], eps: str = "4/255"
) -> Effect:
    """In their own size, for a network of width 16 that is cheap enough for thousands of them."""
    settings = (
        "dataset=parquet", f"dataset.path={shared}/data/cifar10_jpeg", "dataset.name=cifar10_jpeg",
        "model=small_cnn", "model.width=16", f"dataset.budgets.linf={eps}", f"recipe.epochs={epochs}",
        "recipe.schedule=step", "recipe.warmup=0", "recipe.learning_rate=0.05", "recipe.weight_decay=5e-4",
        "recipe.batch_size=50", "recipe.selection.limit=300", "recipe.selection.steps=3",
        "recipe.selection.step_size=0.5",
    )  # fmt: skip
    also = (("best", "best_robust"), ("lost since the best", "lost"))
    return Effect(question, eps, images, settings, arms, judged=400, steps=20, also=also)


def effects(shared: Path) -> dict[str, Effect]:
    gamma = "recipe.weight_perturbation.radius"
    factors = ("model=low_rank", "recipe.weight_decay=0")
    large = ("recipe.batch_size=250", "recipe.learning_rate=0.2", "recipe.warmup=0.1")
    few = ("recipe.objective.attack.steps=3", "recipe.objective.attack.step_size=0.5")
    two = ("recipe.objective.attack.steps=2", "recipe.objective.attack.step_size=0.625")
    awp = {"PGD-AT": ("recipe=pgd_at", *two), "AWP 0.01": ("recipe=pgd_at_awp", *two)}
    return {
        "robust": _digits(
            "Does training on PGD examples make robust?", "0.15", 1000, 15,
            {"standard": ("recipe=standard",), "PGD-AT": ("recipe=pgd_at",)},
        ),
        "trade": _digits(
            "Do TRADES and MART trade clean accuracy for a smaller gap between train and test?", "0.2", 1000, 15,
            {"PGD-AT": ("recipe=pgd_at",), "TRADES": ("recipe=trades",), "MART": ("recipe=mart",)},
        ),
        "awp": _digits(
            "Does AWP close the gap between train and test, and best and last?", "0.2", 200, 80,
            {
                "PGD-AT": ("recipe=pgd_at",),
                "AWP 0.01": ("recipe=pgd_at_awp",),
                "AWP 0.03": ("recipe=pgd_at_awp", f"{gamma}=0.03"),
                "EMA 0.99": ("recipe=pgd_at", "recipe.ema=0.99"),
            },
        ),
        "trades_awp": _digits(
            "Does AWP help TRADES?", "0.2", 200, 40,
            {
                "TRADES": ("recipe=trades",),
                "AWP 0.005": ("recipe=trades_awp",),
                "AWP 0.01": ("recipe=trades_awp", f"{gamma}=0.01"),
            },
        ),
        "co": _digits(
            "Does a single step fail at a large eps, where ten do not?", "0.3", 1000, 40,
            {
                "PGD-AT": ("recipe=pgd_at",),
                "FGSM": ("recipe=fgsm_rs", "recipe.objective.attack.init=zero", "recipe.objective.attack.step_size=1"),
                "FGSM-RS": ("recipe=fgsm_rs",),
                "N-FGSM": ("recipe=n_fgsm",),
            },
        ),
        "single": _digits(
            "Does more noise help a single step at a moderate eps?", "0.15", 1000, 15,
            {"FGSM-RS": ("recipe=fgsm_rs",), "N-FGSM": ("recipe=n_fgsm",), "PGD-AT": ("recipe=pgd_at",)},
        ),
        "flat": _digits(
            "Do flat minima generalize on clean images?", "0.15", 200, 40,
            {
                "standard": ("recipe=standard",),
                "AMP 0.5": ("recipe=amp",),
                "AMP 0.1": ("recipe=amp", f"{gamma}=0.1"),
                "SAM 0.05": ("recipe=sam",),
                "ASAM 0.5": ("recipe=asam",),
            },
        ),
        "weighting": _digits(
            "Do trainings that weight samples hold under an attack that is not theirs?", "0.2", 1000, 30,
            {"PGD-AT": ("recipe=pgd_at",), "GAIRAT": ("recipe=gairat",), "MAIL": ("recipe=mail",),
             "LRAT": ("recipe=lrat",)},
            also=(("PGD on cross-entropy alone", "last_ce"),),
        ),
        "classes": _digits(
            "Does weighting samples or classes help the worst classes?", "0.2", 1000, 30,
            {"PGD-AT": ("recipe=pgd_at",), "DAFA": ("recipe=dafa",), "DONE 2": ("recipe=done",),
             "DONE 5": ("recipe=done", "recipe.weighting.temperature=5")},
            also=(("worst class", "last_worst_class"), ("worst 30 % of classes", "last_tail")),
        ),
        "condition": _digits(
            "Do bounded condition numbers help low-rank networks against small perturbations?", "0.05", 1000, 30,
            {
                "low rank": ("recipe=condlr", *factors, "recipe.constraint.tau=null"),
                "CondLR 0.5": ("recipe=condlr", *factors),
                "CondLR 0.1": ("recipe=condlr", *factors, "recipe.constraint.tau=0.1"),
                "standard": ("recipe=standard",),
            },
        ),
        "pruning": _digits(
            "Does sharpness by importance help a pruned network under corruptions?", "0.15", 1000, 30,
            {
                "pruned": ("recipe=adasap", "recipe.weight_perturbation=null"),
                "AdaSAP": ("recipe=adasap",),
                "dense": ("recipe=standard",),
            },
            also=(("clean", "last_clean"), ("corrupted", "last_corrupted")),
        ),
        "advprop": _digits(
            "Do adversarial examples with batch norms of their own help on clean and corrupted images?", "0.15", 1000,
            30,
            {"standard": ("recipe=standard",), "AdvProp": ("recipe=advprop",)},
            also=(("clean", "last_clean"), ("corrupted", "last_corrupted")),
        ),
        "lag": _digits(
            "Do they in large batches, and does it matter how old the attacked weights are?", "0.15", 1000, 30,
            {
                "standard": ("recipe=standard", *large),
                "lag 0": ("recipe=conadv", *large, "recipe.objective.lag=0"),
                "ConAdv, lag 1": ("recipe=conadv", *large),
                "lag 4": ("recipe=conadv", *large, "recipe.objective.lag=4"),
            },
            also=(("clean", "last_clean"), ("corrupted", "last_corrupted")),
        ),
        "cifar_awp": _cifar(
            shared, "Does AWP close the gaps on photographs?", "8/255", 200, 30,
            {"PGD-AT": ("recipe=pgd_at", *few), "AWP 0.01": ("recipe=pgd_at_awp", *few)},
        ),
        "cifar_co": _cifar(
            shared, "Does a single step overfit catastrophically on photographs?", "16/255", 200, 30,
            {"PGD-AT": ("recipe=pgd_at", *few), "FGSM-RS": ("recipe=fgsm_rs",)},
        ),
        "photographs_2000": _photographs(
            shared, "Does AWP close the gaps on 2,000 photographs of 32 pixels?", 2000, 24, awp
        ),
        "photographs_10000": _photographs(
            shared, "Does AWP close the gaps on 10,000 photographs of 32 pixels?", 10000, 12, awp
        ),
        "photographs_flat": _photographs(
            shared, "Do flat minima generalize on photographs?", 2000, 12,
            {"standard": ("recipe=standard",), "AMP 0.5": ("recipe=amp",), "AMP 0.1": ("recipe=amp", f"{gamma}=0.1")},
        ),
    }  # fmt: skip
