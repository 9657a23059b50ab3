"""Figures of the sCM paper (arXiv 2410.11081v2, Tables 1 and 2), by the plugins of their methods.

FID of 50,000 samples in InceptionV3's features, by the number of network evaluations. They are of other data,
networks and budgets than any bench here has. Where the talk's slides differ (sCT on CIFAR-10: 2.97; rows of
PD, TRACT and CD out of order), the paper's second version counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DIFFUSION, JOINT = "Diffusion models & fast samplers", "Joint training"
DISTILLATION, CONSISTENCY = "Diffusion distillation", "Consistency training"
FLOW_MAPS, OTHERS = "Flow maps from scratch (not in the paper)", "Other generators from scratch"
GROUPS = (DIFFUSION, JOINT, DISTILLATION, CONSISTENCY, FLOW_MAPS, OTHERS)
"""The groups of a table in the paper's order, and those of methods that it has not."""

Fid = Mapping[float, float]


@dataclass(frozen=True)
class Published:
    """The rows of one method: its name in the paper, its group there, and FID by NFE on each data set."""

    name: str
    group: str
    cifar10: Fid
    imagenet64: Fid


PUBLISHED: Mapping[str, Published] = {
    "diffusion": Published("EDM; EDM2 (Heun)", DIFFUSION, {35: 2.01}, {63: 1.33}),
    "diff-instruct": Published("Diff-Instruct", JOINT, {1: 4.53}, {1: 5.57}),
    "dmd": Published("DMD", JOINT, {1: 3.77}, {1: 2.62}),
    "dmd2": Published("DMD2", JOINT, {}, {1: 1.28}),
    "emd": Published("EMD", JOINT, {}, {1: 2.20}),
    "sid": Published("SiD", JOINT, {1: 1.92}, {1: 1.52}),
    "ctm": Published("CTM (with its GAN)", JOINT, {1: 1.87}, {1: 1.92, 2: 1.73}),
    "moment-matching": Published("Moment Matching", JOINT, {}, {1: 3.00, 2: 3.86}),
    "dfno": Published("DFNO (LPIPS)", DISTILLATION, {1: 3.78}, {1: 7.83}),
    "reflow": Published("2-Rectified Flow", DISTILLATION, {1: 4.85}, {}),
    "pid": Published("PID (LPIPS)", DISTILLATION, {1: 3.92}, {1: 9.49}),
    "boot": Published("BOOT (LPIPS)", DISTILLATION, {1: 4.38}, {}),
    "consistency-fm": Published("Consistency-FM", DISTILLATION, {2: 5.34}, {}),
    "progressive-distillation": Published(
        "PD", DISTILLATION, {1: 8.34, 2: 5.58}, {1: 10.70, 2: 4.70}
    ),
    "tract": Published("TRACT", DISTILLATION, {1: 3.78, 2: 3.32}, {1: 7.43, 2: 4.97}),
    "cd": Published("CD (LPIPS)", DISTILLATION, {1: 3.55, 2: 2.93}, {1: 6.20, 2: 4.70}),
    "multistep-cd": Published("MultiStep-CD", DISTILLATION, {}, {1: 3.20, 2: 1.90}),
    "scd": Published("sCD", DISTILLATION, {1: 3.66, 2: 2.52}, {1: 2.44, 2: 1.66}),
    "ict": Published("iCT", CONSISTENCY, {1: 2.83, 2: 2.46}, {1: 4.02, 2: 3.20}),
    "ect": Published("ECT", CONSISTENCY, {1: 3.60, 2: 2.11}, {1: 2.49, 2: 1.67}),
    "sct": Published("sCT", CONSISTENCY, {1: 2.85, 2: 2.06}, {1: 2.04, 2: 1.48}),
}
"""Table 1, unconditional CIFAR-10 and class-conditional ImageNet 64x64, for methods that are plugins."""

SIZES: Mapping[str, Mapping[str, Fid]] = {
    "diffusion": {"S": {126: 2.29}, "M": {126: 2.00}, "L": {126: 1.87}},
    "sct": {"S": {1: 10.13, 2: 9.86}, "M": {1: 5.84, 2: 5.53}, "L": {1: 5.15, 2: 4.65}},
    "scd": {"S": {1: 3.07, 2: 2.50}, "M": {1: 2.75, 2: 2.26}, "L": {1: 2.55, 2: 2.04}},
}
"""Table 2, class-conditional ImageNet 512x512 by the network's size: 280, 498 and 778 million parameters.

63 evaluations with guidance are twice as many.
"""
