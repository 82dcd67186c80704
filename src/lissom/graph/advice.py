"""What to write instead of code that does not follow a cut."""

from __future__ import annotations


def instead_of_literals(message: str) -> str:
    """Give the remedy for code that fails with ``message`` once channels are gone."""
    if "invalid for input of size" in message:
        return "write x.flatten(1), or sizes read from x.shape, instead of a view with numbers"
    if "split" in message:
        return "split into x.shape[1] // parts, or use chunk, instead of fixed sizes"
    return "read sizes from x.shape instead of writing them as numbers"


def instead_of_padding(layer: str, channels: int, before: int, after: int) -> str:
    """Give the remedy for channels of zeros added by number.

    Sizes read from ``x.shape`` are none: which of the zeros go depends on the channels cut.

    Args:
        layer: The module that pads, "" for the network itself.
        channels: Channels that are padded.
        before: Zeros in front of them.
        after: Zeros behind them.
    """
    total = before + channels + after
    module = "a module that follows the protocol lissom.plan.surgery.ChannelMap"
    if before == (total - channels) // 2:
        module = "lissom.models.shortcut.ZeroPadShortcut(in_channels, out_channels, stride)"
    place = f"in {layer}, " if layer else ""
    return (
        f"replace the padding (here {place}from {channels} to {total} channels) by {module}, which "
        "is cut with the layers around it and has no tensors, so that the weights still load"
    )
