"""What a user chooses by name. Without torch, so that --help shows it at once."""

from enum import StrEnum


class Method(StrEnum):
    """How a map is made; AUTO is CAM where the net allows it, else Grad-CAM."""

    AUTO = "auto"
    CAM = "cam"
    GRAD_CAM = "grad-cam"


class Format(StrEnum):
    """What a net is written as."""

    ONNX = "onnx"
    EXPORT = "export"
    SAFETENSORS = "safetensors"

    @property
    def suffix(self) -> str:
        return ".pt2" if self is Format.EXPORT else f".{self}"
