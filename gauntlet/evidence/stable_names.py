"""Stable names of components: what a run's hash, a weight key and a record say instead of a Python path.

A component is named by the place where it first stood, however often its file moves afterwards. So a move changes no
hash, and old evidence, old configurations and shipped weights stay valid. Imports no torch.

A name in a record is one of four: the first name of a component of this package (`attacks.pgd.PGD`); the place of one
that came into a room whose name no package of 0.1.0 had (`gauntlet.data.array_files.ArrayFiles`); a user's own name
(`mine.net.Net`); or, where a user's package is called like one of ours once was, `user:models.net.Net`.
"""

from collections.abc import Mapping
from typing import Any

PACKAGE = "gauntlet."

ROOTS = ("attacks", "certification", "defenses", "harness", "models", "training")
"""First words of first names: the packages of version 0.1.0."""

USER = "user:"
"""Marks, in records, a user's own name whose first word is one of `ROOTS`."""

PLACES: dict[str, str] = {
    "attacks.adaea.AdaEA": "gauntlet.attacks.transfer.adaea.AdaEA",
    "attacks.admix.Admix": "gauntlet.attacks.transfer.admix.Admix",
    "attacks.arc.ARC": "gauntlet.attacks.randomized_ensemble.arc.ARC",
    "attacks.bsr.ShuffledRotations": "gauntlet.attacks.transfer.bsr.ShuffledRotations",
    "attacks.cascade.Cascade": "gauntlet.attacks.suite.Suite",
    "attacks.ddn.DDN": "gauntlet.attacks.minimum_norm.ddn.DDN",
    "attacks.diversity.Diversity": "gauntlet.attacks.transfer.input_diversity.Diversity",
    "attacks.ensembles.Ensemble": "gauntlet.attacks.transfer.ensemble_gradient.Ensemble",
    "attacks.expected_pgd.ExpectedPGD": "gauntlet.attacks.randomized_ensemble.expected_pgd.ExpectedPGD",
    "attacks.fmn.FMN": "gauntlet.attacks.minimum_norm.fmn.FMN",
    "attacks.hop_skip_jump.HopSkipJump": "gauntlet.attacks.black_box.hop_skip_jump.HopSkipJump",
    "attacks.lattice_climber.LatticeClimber": "gauntlet.attacks.randomized_ensemble.lattice_climber.LatticeClimber",
    "attacks.pdpgd.PDPGD": "gauntlet.attacks.minimum_norm.pdpgd.PDPGD",
    "attacks.rays.RayS": "gauntlet.attacks.black_box.rays.RayS",
    "attacks.search.Search": "gauntlet.attacks.minimum_norm.epsilon_search.Search",
    "attacks.sia.BlockTransforms": "gauntlet.attacks.transfer.sia.BlockTransforms",
    "attacks.sigma_zero.SigmaZero": "gauntlet.attacks.minimum_norm.sigma_zero.SigmaZero",
    "attacks.smoothing.Flatness": "gauntlet.attacks.transfer.gradient_smoothing.Flatness",
    "attacks.smoothing.Kernel": "gauntlet.attacks.transfer.gradient_smoothing.Kernel",
    "attacks.smoothing.Variance": "gauntlet.attacks.transfer.gradient_smoothing.Variance",
    "attacks.square.Square": "gauntlet.attacks.black_box.square.Square",
    "attacks.svre.SVRE": "gauntlet.attacks.transfer.svre.SVRE",
    "attacks.transfer.Transfer": "gauntlet.attacks.transfer.momentum_ascent.Transfer",
    "attacks.uap.UAP": "gauntlet.attacks.universal.uap.UAP",
    "attacks.universal.SGA": "gauntlet.attacks.universal.spgd.SGA",
    "attacks.universal.SPGD": "gauntlet.attacks.universal.spgd.SPGD",
    "attacks.views.Scales": "gauntlet.attacks.transfer.input_transforms.Scales",
    "certification.bands.Bands": "gauntlet.certification.band_ablation.Bands",
    "certification.bounds.Bounds": "gauntlet.certification.linear_bounds.LinearBounds",
    "certification.dual_smoothing.DualSmoothing": "gauntlet.certification.dual_smoothing.DualSmoothingCertifier",
    "certification.mixing.Mixing": "gauntlet.certification.mixing.MixingCertifier",
    "defenses.origin.Origin": "gauntlet.defenses.calibration_data.CalibrationData",
    "harness.cells.Announce": "gauntlet.cluster.sweep_jobs.Announce",
    "harness.data.digits.Digits": "gauntlet.data.digits.Digits",
    "harness.data.imagefolder.ImageFolder": "gauntlet.data.imagefolder.ImageFolder",
    "harness.data.imagenet.ImageNet": "gauntlet.data.imagenet.ImageNet",
    "harness.data.parquet.Parquet": "gauntlet.data.parquet.Parquet",
    "harness.data.torchvision_sets.CIFAR10": "gauntlet.data.torchvision_datasets.CIFAR10",
    "harness.data.torchvision_sets.CIFAR100": "gauntlet.data.torchvision_datasets.CIFAR100",
    "harness.data.torchvision_sets.FashionMNIST": "gauntlet.data.torchvision_datasets.FashionMNIST",
    "harness.data.torchvision_sets.MNIST": "gauntlet.data.torchvision_datasets.MNIST",
    "harness.data.torchvision_sets.SVHN": "gauntlet.data.torchvision_datasets.SVHN",
    "harness.protocol.Protocol": "gauntlet.evaluation.randomized_protocol.Protocol",
    "harness.runtime.Runtime": "gauntlet.config.runtime.Runtime",
    "harness.stored.Stored": "gauntlet.transfer.precomputed.Stored",
    "harness.threat.Threat": "gauntlet.threat_model.threat.Threat",
    "harness.tracking.NoTracker": "gauntlet.tracking.NoTracker",
    "harness.tracking.Wandb": "gauntlet.tracking.Wandb",
    "models.half.Half": "gauntlet.models.half_image.Half",
    "models.probed.Probed": "gauntlet.models.linear_probes.Probed",
    "models.probes.Probes": "gauntlet.models.linear_probes.Probes",
    "training.alternation.Alternation": "gauntlet.training.alternating_updates.Alternation",
    "training.alternation.Phase": "gauntlet.training.alternating_updates.Phase",
    "training.barre.BARRE": "gauntlet.training.objectives.boosting.BARREObjective",
    "training.barre.HalfStartPGD": "gauntlet.training.objectives.boosting.HalfStartPGD",
    "training.boosted.Boosted": "gauntlet.training.objectives.boosting.Boosted",
    "training.inner.InnerPGD": "gauntlet.training.inner_attack.InnerPGD",
    "training.mart.MART": "gauntlet.training.objectives.mart.MARTObjective",
    "training.moe.MoETRADES": "gauntlet.training.objectives.mixture_of_experts.MoETRADES",
    "training.moe.RouterPGD": "gauntlet.training.objectives.mixture_of_experts.RouterPGD",
    "training.moe.Routing": "gauntlet.training.objectives.mixture_of_experts.Routing",
    "training.noisy.Consistency": "gauntlet.training.objectives.gaussian_augmentation.Consistency",
    "training.noisy.Gaussian": "gauntlet.training.objectives.gaussian_augmentation.GaussianAugmentation",
    "training.noisy.Noisy": "gauntlet.training.objectives.gaussian_augmentation.Noisy",
    "training.noisy.SmoothAdv": "gauntlet.training.objectives.gaussian_augmentation.SmoothAdv",
    "training.noisy_fgsm.NoisyFGSM": "gauntlet.training.inner_attack.NoisyFGSM",
    "training.objective.PGDAT": "gauntlet.training.objectives.objective.PGDAT",
    "training.objective.Standard": "gauntlet.training.objectives.objective.Standard",
    "training.objective.TRADES": "gauntlet.training.objectives.objective.TRADESObjective",
    "training.part.Part": "gauntlet.training.trained_network.TrainedNetwork",
    "training.resolution_stack.ResolutionStack": "gauntlet.training.objectives.multi_resolution.ResolutionStack",
    "training.selection.Selection": "gauntlet.training.model_selection.Selection",
    "training.self_ensemble.SelfEnsemble": "gauntlet.training.objectives.self_ensemble.SelfEnsemble",
    "training.stack_tuning.Probing": "gauntlet.training.objectives.linear_probing.Probing",
    "training.stack_tuning.StackTuning": "gauntlet.training.objectives.linear_probing.StackTuning",
}
"""First name -> today's place, of components whose place is not `gauntlet.` and the first name."""

_FIRST = {place: name for name, place in PLACES.items()}


def first_name(place: str) -> str:
    """Return the stable name of what stands at a place; a user's own name comes back marked or as it is."""
    if place.startswith(PACKAGE):
        name = _FIRST.get(place, place.removeprefix(PACKAGE))
        return name if name.split(".")[0] in ROOTS else place  # else `data.x` would be taken for a user's own
    return f"{USER}{place}" if place.split(".")[0] in ROOTS else place


def place_of(name: str) -> str:
    """Return today's place of a name on record; a user's own name comes back without its mark."""
    if name.startswith(USER):
        return name.removeprefix(USER)
    if name in PLACES:
        return PLACES[name]
    return f"{PACKAGE}{name}" if name.split(".")[0] in ROOTS else name


def to_record(config: Any) -> Any:
    """Return a copy of plain configuration values with every `_target_` by its stable name."""
    return _renamed(config, first_name)


def from_record(config: Any) -> Any:
    """Return a copy of recorded configuration values with every `_target_` by its place."""
    return _renamed(config, place_of)


def _renamed(value: Any, rename: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: rename(item) if key == "_target_" and isinstance(item, str) else _renamed(item, rename)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_renamed(item, rename) for item in value]
    return value
