"""Distances on PyTorch with derivatives of any order: the variant "torch" of `pairwise_distance` (contract there)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def load_torch() -> Callable[..., Any]:
    """torch's own distances, whose first derivative backward is all that torch has: further ones are made here."""
    import torch

    by_differences = "donot_use_mm_for_euclid_dist"

    def written_out(a: Any, b: Any) -> Any:
        """In elementary operations, for `torch.func` and derivatives forward."""
        total = (a[:, None] - b).square().sum(-1)
        zero = total == 0
        return torch.where(zero, 0, torch.where(zero, 1, total).sqrt())

    class Distances(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            y = torch.cdist(a, b, compute_mode=by_differences)
            ctx.save_for_backward(a, b, y)
            return y

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            a, b, y = ctx.saved_tensors
            (g,), (to_a, to_b) = gradients, ctx.needs_input_grad
            if torch.is_grad_enabled():  # asked for with create_graph
                zero = y == 0
                pull = torch.where(zero, 0, g / torch.where(zero, 1, y))[..., None] * (a[:, None] - b)
                return pull.sum(1) if to_a else None, -pull.sum(0) if to_b else None
            # torch's own needs no array of all differences.
            back, g = torch.ops.aten._cdist_backward, g.contiguous()
            return (
                back(g, a.contiguous(), b.contiguous(), 2.0, y) if to_a else None,
                back(g.mT.contiguous(), b.contiguous(), a.contiguous(), 2.0, y.mT.contiguous()) if to_b else None,
            )

    with_derivative: Callable[..., Any] = Distances.apply

    def distances(a: Any, b: Any) -> Any:
        try:
            if a.requires_grad or b.requires_grad:  # a Function costs five times as much as a few distances
                return with_derivative(a, b)
            return torch.cdist(a, b, compute_mode=by_differences)
        except RuntimeError:  # torch's answers to `torch.func` and to derivatives forward
            return written_out(a, b)

    return distances
