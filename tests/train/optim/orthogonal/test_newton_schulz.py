"""Newton-Schulz against hand-worked numbers, the singular value decomposition and muon-optimizer."""

from __future__ import annotations

import pytest
import torch
from muon import zeropower_via_newtonschulz5
from torch import Tensor

from train.optim.orthogonal.newton_schulz import COEFFICIENTS, MUON, newton_schulz, orthogonalize


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def through_svd(x_BMN: Tensor, name: str) -> Tensor:
    """The same polynomials on the singular values alone, in float64."""
    u, s, vt = torch.linalg.svd(x_BMN.double(), full_matrices=False)
    s = s / s.norm(dim=-1, keepdim=True)
    for a, b, c in COEFFICIENTS[name]:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag_embed(s) @ vt


def test_hand_worked_matrix():
    # Norm 5, so the singular values are 0.6 and 0.8. One polynomial with a, b, c = 3.4445, -4.7750, 2.0315:
    # 0.6 -> 3.4445 * 0.6 - 4.7750 * 0.216 + 2.0315 * 0.07776 = 2.06670 - 1.03140 + 0.15797 = 1.19327
    # 0.8 -> 3.4445 * 0.8 - 4.7750 * 0.512 + 2.0315 * 0.32768 = 2.75560 - 2.44480 + 0.66568 = 0.97648
    got = newton_schulz(torch.tensor([[0.0, 3.0], [-4.0, 0.0]]), MUON[:1])
    want = torch.tensor([[0.0, 1.19327], [-0.97648, 0.0]])
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)  # five printed digits


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32), (3, 24, 40), (2, 3, 40, 24), (1, 8)])
def test_singular_vectors_stay_and_values_take_the_polynomials(name, shape):
    x = normal(*shape)
    got = orthogonalize(x, coefficients=name, dtype=torch.float32)
    # float32: 15 products of sums over at most 40 terms
    torch.testing.assert_close(got.double(), through_svd(x, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    # The range of the composed polynomials over [0.01, 1], to two digits outwards.
    [("dion", 0.97, 1.04), ("muon", 0.68, 1.14)],
)
def test_singular_values_end_near_one(name, low, high):
    x = normal(4, 32, 64)
    start = torch.linalg.svdvals(x / x.norm(dim=(-2, -1), keepdim=True))
    assert start.min() > 0.01
    end = torch.linalg.svdvals(orthogonalize(x, coefficients=name, dtype=torch.float32))
    assert end.min() > low
    assert end.max() < high


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (3, 32, 32)])
def test_bfloat16_is_nearer_the_exact_result_than_muon_optimizer(shape):
    x = normal(*shape)
    exact = through_svd(x, "muon")
    ours, theirs = newton_schulz(x.bfloat16(), MUON), zeropower_via_newtonschulz5(x, steps=5)
    our_error, their_error = ((got - exact).norm() / exact.norm() for got in (ours, theirs))
    # Measured 0.012 to 0.018 and 0.026 to 0.040 over six seeds: we add inside the product, before it is rounded.
    assert our_error < 0.02
    assert our_error < their_error < 0.05


def test_muon_coefficients_in_bfloat16_are_the_package_itself():
    x = normal(3, 24, 40)
    got = orthogonalize(x, coefficients="muon", dtype=torch.bfloat16)
    assert torch.equal(got, zeropower_via_newtonschulz5(x, steps=5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_zero_matrix_stays_zero(dtype):
    # the momentum of an expert that has had no token
    got = orthogonalize(torch.zeros(2, 4, 6), coefficients="dion", dtype=dtype)
    assert torch.equal(got, torch.zeros(2, 4, 6, dtype=dtype))


def test_scale_of_the_gradient_does_not_matter():
    x = normal(24, 40)
    # a power of two changes no digit; the eps of the norm is far below both
    torch.testing.assert_close(
        orthogonalize(x * 2**10, coefficients="dion", dtype=torch.float32),
        orthogonalize(x, coefficients="dion", dtype=torch.float32),
        rtol=0,
        atol=1e-6,
    )
