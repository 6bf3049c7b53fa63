"""Fine-tuning: what of a net that starts from weights is trained, and how fast each of its parts.

Layer-wise decay of the learning rate: ELECTRA (Clark et al. 2020, arXiv:2003.10555, appendix A), BEiT (Bao et
al. 2021, arXiv:2106.08254). The head alone first: LP-FT (Kumar et al. 2022, arXiv:2202.10054).
"""

from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from crescendo.errors import UserError
from crescendo.models.layers import Dropout, DropPath
from crescendo.models.parts import Part, dropout_of_head, find_head, parts
from crescendo.optim import Rates

SAYS_NOTHING: dict[str, tuple[str, ...]] = {  # settings beside a method
    "none": ("head", "layer_decay", "head_lr_factor", "head_epochs", "freeze_bn", "freeze_affine"),
    "head": ("layer_decay", "head_epochs"),
    "all": (),
}


@dataclass(frozen=True)
class Finetuning:
    """What is trained.

    Attributes:
        method: none trains everything alike, whatever it starts from; all trains all layers of a net that
            starts from weights, head only its head (a linear probe).
        head: auto keeps the weights' own where they are of a run with the same classes, and else begins with
            a fresh one; fresh and keep say which.
        layer_decay: the learning rate of a part d parts in front of the head is layer_decay^d of
            optimizer.lr (crescendo.models.parts).
        head_lr_factor: what the head's is of optimizer.lr.
        head_epochs: that train the head alone, before all layers are trained.
        freeze_bn: batch norm keeps the statistics of the weights.
        freeze_affine: batch norm keeps their gains and shifts.

    Raises:
        UserError: settings that say nothing beside the others.
    """

    method: Literal["none", "all", "head"] = "none"
    head: Literal["auto", "fresh", "keep"] = "auto"
    layer_decay: float = 1.0
    head_lr_factor: float = 1.0
    head_epochs: int = 0
    freeze_bn: bool = False
    freeze_affine: bool = False

    def __post_init__(self) -> None:
        for name in SAYS_NOTHING[self.method]:
            value = getattr(self, name)
            if value != getattr(Finetuning, name):
                alone = "the head and nothing in front of it" if self.method == "head" else "all parts alike"
                raise UserError(
                    f"finetuning.{name}={value}: finetuning.method={self.method} trains {alone}. Leave it "
                    f"out, or take finetuning=all_layers."
                )

    @property
    def is_on(self) -> bool:
        return self.method != "none"

    @property
    def fresh_head(self) -> bool:
        """Whether the weights are taken without their head, as far as the classes are not known."""
        return self.is_on and self.head != "keep"

    @property
    def of_last_epochs(self) -> "Finetuning":
        """What is left of it when all layers are trained: the dearest steps, which are measured."""
        return replace(self, head_epochs=0)

    def trains_head_alone(self, epoch: int) -> bool:
        """In `epoch`, from 0."""
        return self.method == "head" or (self.method == "all" and epoch < self.head_epochs)

    def freeze(self, net: nn.Module) -> None:
        """Mark what is never trained: no gradient is computed for it, and no optimizer holds it.

        Raises:
            UserError: the net has no head to train, or no batch norm to freeze.
        """
        if not self.is_on:
            return
        head = find_head(net)
        name = getattr(net, "name", "") or type(net).__name__
        if head is None:
            raise UserError(f"{name} has no linear layer that could be its head: finetuning=none.")
        for setting in ("freeze_bn", "freeze_affine"):
            if getattr(self, setting) and not _norms(net):
                raise UserError(f"finetuning.{setting}=true: {name} has no batch norm, so leave it out.")
        if self.method == "head":
            net.requires_grad_(False)
            head.requires_grad_(True)
        elif self.freeze_affine:
            for norm in _norms(net):
                norm.requires_grad_(False)

    def hold(self, net: nn.Module, epoch: int) -> None:
        """Put into eval mode what `epoch` keeps as it is, in a net that is in train mode.

        Beside a head that is trained alone that is all but its own dropout. Auxiliary heads run on where
        all layers are trained later, so that each step of a training has the same graph.
        """
        if self.trains_head_alone(epoch):
            net.eval()
            net.training = self.method == "all"
            for layer in dropout_of_head(net):
                layer.train()
        elif self.freeze_bn:
            for norm in _norms(net):
                norm.eval()

    def train_mode(self, net: nn.Module) -> None:
        """Put a net into the mode of the training, in its last epochs if they differ."""
        self.of_last_epochs.hold(net.train(), 0)

    def rates(self, net: nn.Module) -> Rates | None:
        """Each part's parameters with their share of optimizer.lr, from the head to the images.

        Parts of one share are together: one, of all, where none differs. None: all are trained alike.
        """
        if not self.is_on:
            return None
        shares: dict[float, list[nn.Parameter]] = {}
        for part, share in self.shares(net):
            shares.setdefault(share, []).extend(part.parameters)
        return [(parameters, share) for share, parameters in shares.items()]

    def shares(self, net: nn.Module) -> list[tuple[Part, float]]:
        """The parts from the head to the images, each with its share of optimizer.lr."""
        head, *others = reversed(parts(net))
        return [
            (head, self.head_lr_factor),
            *((part, self.layer_decay**distance) for distance, part in enumerate(others, start=1)),
        ]

    def idle_layers(self, net: nn.Module) -> tuple[type[nn.Module], ...]:
        """Of Dropout and DropPath, those that the net has and that a linear probe never runs."""
        if self.method != "head":
            return ()
        kinds: list[type[nn.Module]] = [DropPath] if dropout_of_head(net) else [Dropout, DropPath]
        return tuple(kind for kind in kinds if any(isinstance(layer, kind) for layer in net.modules()))


def _norms(net: nn.Module) -> list[nn.Module]:
    return [module for module in net.modules() if isinstance(module, _BatchNorm)]
