"""The module that replaces a model's router."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from batchgen.engine.mixture.choice import Choice
from batchgen.engine.quantization.linear import kept

__all__ = ["Router", "correction_of", "multiply"]


class Router(nn.Module):
    """Logits as the module makes them, and one kernel from there to the experts."""

    def __init__(self, module: Any, wide: bool, choice: Choice) -> None:
        """It shares the module's tensors. `wide`: logits are multiplied in float32, whatever the
        dtype of the rows."""
        super().__init__()
        weight, bias = module.weight, getattr(module, "bias", None)
        self.wide, self.choice_text = wide, choice.text
        self.weight = kept(weight.float()) if wide else weight
        self.bias: nn.Parameter | None = bias
        correction = correction_of(module)
        self.correction = None if correction is None else kept(correction)

    def forward(
        self, hidden_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[.., hidden] -> logits [num_tokens, num_experts], and of each token its experts' shares
        and its experts [num_tokens, num_chosen]."""
        from batchgen.engine.mixture.choosing import choose_experts

        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        logits = multiply(x, self.weight, self.bias, self.wide)
        shares, chosen = choose_experts(logits, self.correction, self.choice_text)
        return logits, shares, chosen

    def extra_repr(self) -> str:
        """For a printed model."""
        return f"num_experts={len(self.weight)}, {Choice.read(self.choice_text)}"


def multiply(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, wide: bool
) -> torch.Tensor:
    """Logits."""
    if wide:
        x, weight, bias = x.float(), weight.float(), None if bias is None else bias.float()
    return F.linear(x, weight, bias)


def correction_of(router: nn.Module) -> torch.Tensor | None:
    """What the module holds for each expert, other than a bias."""
    held = (*router.named_parameters(recurse=False), *router.named_buffers(recurse=False))
    shape = router.get_parameter("weight").shape[:1]
    return next((one for name, one in held if one.shape == shape and name != "bias"), None)
