"""Fréchet distance between Gaussian fits; in InceptionV3's features it is the FID."""

import numpy as np
from jaxtyping import Float

from scmkit.interfaces import AbstractMetric, Evaluation
from scmkit.plugin import NoOptions, Plugin, Slot


class FrechetDistance(AbstractMetric):
    r"""$\|\mu_x - \mu_y\|^2 + \mathrm{tr}\,(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2})$.

    The squared 2-Wasserstein distance of two Gaussians with the sets' means and covariances (Dowson and
    Landau, 1982; as FID arXiv 1706.08500, Equation 6). Biased upwards, by about $1/n$ and more in many
    dimensions: compare values of the same number of samples only.
    """

    needs = "two samples and two real ones"

    def __init__(self, space: str | None) -> None:
        self.space = space

    def applies(self, evaluation: Evaluation) -> bool:
        return min(len(evaluation.samples), len(evaluation.reference)) > 1

    def __call__(self, evaluation: Evaluation) -> float:
        return frechet_distance(evaluation.samples, evaluation.reference)


def frechet_distance(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The distance of the Gaussian fits to two sets."""
    mean_x, root_x = _gaussian(x)
    mean_y, root_y = _gaussian(y)
    # With S = R^T R, tr (S_x S_y)^{1/2} is the sum of the singular values of R_x R_y^T. Exact for
    # singular covariances, too, where the root of a product would lose half of the digits.
    cross = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    traces = (root_x**2).sum() + (root_y**2).sum()
    return float(max(((mean_x - mean_y) ** 2).sum() + traces - 2 * cross, 0.0))


def _gaussian(
    vectors: Float[np.ndarray, "n d"],
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "r d"]]:
    """The mean, and an R with R^T R the unbiased covariance, in float64."""
    vectors = vectors.astype(np.float64)
    mean, (n, d) = vectors.mean(0), vectors.shape
    root = (vectors - mean) / np.sqrt(n - 1)
    return mean, np.asarray(np.linalg.qr(root, mode="r")) if n > d else root


def build(config: NoOptions) -> FrechetDistance:
    return FrechetDistance(None)


def build_fid(config: NoOptions) -> FrechetDistance:
    return FrechetDistance("inception")


plugin = Plugin(
    name="frechet-distance",
    summary="Fréchet distance between Gaussian fits",
    provides={Slot.metric: build},
)

fid = Plugin(
    name="fid",
    summary="Fréchet Inception distance: frechet-distance of InceptionV3's features (arXiv 1706.08500)",
    provides={Slot.metric: build_fid},
)
