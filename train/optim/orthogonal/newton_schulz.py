"""Newton-Schulz: moves every singular value of a matrix towards 1, by matrix products alone (pure).

X <- aX + (bA + cA^2)X with A = XX^T maps each singular value s to as + bs^3 + cs^5 and leaves the singular vectors
as they are. Five such polynomials take any s in (0, 1] near 1, so the result is close to UV^T of X = USV^T.

Source: Keller Jordan, https://kellerjordan.github.io/posts/muon/ and the package muon-optimizer, which is the kernel
for its own coefficients; microsoft/dion, dion/newton_schulz_triton.py, for the others.

Letters: B matrices of a batch, M rows, N columns.
"""

from __future__ import annotations

import torch
from muon import zeropower_via_newtonschulz5
from torch import Tensor

Polynomial = tuple[float, float, float]

# What muon-optimizer iterates: the steepest slope at 0; the values end between about 0.7 and 1.2.
MUON: tuple[Polynomial, ...] = ((3.4445, -4.7750, 2.0315),) * 5

# microsoft/dion: steep first, flat last, so that the values end closer to 1.
DION: tuple[Polynomial, ...] = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)

COEFFICIENTS = {"dion": DION, "muon": MUON}

NORM_EPS = 1e-7  # both sources; keeps the zero matrix zero


def orthogonalize(x_BMN: Tensor, *, coefficients: str, dtype: torch.dtype) -> Tensor:
    """The near-orthogonal factor of each matrix, in `dtype`. x_BMN: any float type, [..., M, N]."""
    if coefficients == "muon" and dtype == torch.bfloat16:
        return zeropower_via_newtonschulz5(x_BMN, steps=len(MUON))
    return newton_schulz(x_BMN.to(dtype), COEFFICIENTS[coefficients])


def residual(u_MN: Tensor) -> Tensor:
    """How far a matrix is from orthogonal: root mean square of s^2 - 1 over its singular values s. float32 [].

    From |UU^T - I|_F, over the square root of the shorter side.
    """
    u_MN = u_MN.float()
    gram = u_MN @ u_MN.mT if u_MN.shape[0] <= u_MN.shape[1] else u_MN.mT @ u_MN
    return (gram - torch.eye(len(gram), device=gram.device)).norm() / len(gram) ** 0.5


def newton_schulz(x_BMN: Tensor, polynomials: tuple[Polynomial, ...]) -> Tensor:
    """Applies the polynomials in turn, in the data type of x_BMN."""
    is_tall = x_BMN.shape[-2] > x_BMN.shape[-1]
    wide = x_BMN.mT if is_tall else x_BMN
    x = wide.reshape(-1, *wide.shape[-2:])
    # The Frobenius norm bounds the spectral norm, so every singular value starts in [0, 1].
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + NORM_EPS)
    for a, b, c in polynomials:
        gram = x @ x.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, factor, x, beta=a)
    x = x.view(wide.shape)
    return x.mT if is_tall else x
