"""Gates: learned scalars and maps that say how much of a branch a network uses.

A gate that starts at zero gives the parameters behind it no gradient, so gates start above zero (the LayerScale of
Touvron et al., "Going deeper with Image Transformers", ICCV 2021, section 2), learn faster than other parameters and
are not pulled to zero by weight decay.
"""

from __future__ import annotations

from torch import nn

GATE_START = 0.1
"""First value of the weight of a residual branch."""


class Gated(nn.Module):
    """A module with gates.

    Attributes
    ----------
    gate_names
        Names of its parameters that are gates, where there are such parameters.
    """

    gate_names: tuple[str, ...] = ()

    def gates(self) -> dict[str, nn.Parameter]:
        """Return the gates that this module has, by name."""
        return {name: value for name, value in self.named_parameters(recurse=False) if name in self.gate_names}

    def scalars(self) -> dict[str, float]:
        """Return the values of those gates that are scalars, for the training log."""
        return {name: value.item() for name, value in self.gates().items() if value.numel() == 1}
