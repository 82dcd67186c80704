"""The operator table: one row an ATen operator, giving what it does to channels.

An operator that is not in the table freezes every channel that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lissom.graph import operators_layers as layers
from lissom.graph import operators_shape as shape
from lissom.graph.call import Call, join
from lissom.graph.channels import Ids, Value, varies

Result = Value | tuple[Value, ...]
Rule = Callable[[Call], Result]


def elementwise(call: Call) -> Value:
    """Every entry of the output depends on the entries at the same place only."""
    return join(call.ids, call.shape, call.values)


def in_first(call: Call) -> Value:
    """As element-wise, for operators whose other tensors do not matter."""
    return Value(call.shape, call.x.facets)


def constant(call: Call) -> Result:
    """Make a tensor of a size given as numbers: without channels, and the trial cut checks that."""
    return Value(call.shape)


def over_axis(call: Call) -> Value:
    """Softmax and cumulative sums: computes along axes without removing them."""
    axes = _axes(call)
    for facet in call.x.facets:
        if any(varies(facet, axis) for axis in axes):
            call.ids.blur(facet, call.name)
    return Value(call.shape, call.x.facets)


def reduction(call: Call) -> Result:
    """Mean, sum, maximum, ... over axes."""
    axes = _axes(call)
    keep = bool(call.arguments.get("keepdim"))
    facets = []
    for facet in call.x.facets:
        if any(varies(facet, axis) for axis in axes):
            call.ids.blur(facet, call.name)
        left = _collapse(call, facet, axes)
        if any(size > 1 for size in left.shape):
            facets.append(left if keep else np.squeeze(left, tuple(axes)))
    values = tuple(Value(s, tuple(facets)) for s in call.shapes)
    return values if len(values) > 1 else values[0]


def _collapse(call: Call, facet: Ids, axes: list[int]) -> Ids:
    """Give the ids that are left where axes along which they vary are summed over."""
    for axis in axes:
        if varies(facet, axis) and any(
            varies(facet, k) for k in range(facet.ndim) if k not in axes
        ):
            call.ids.unite(facet, facet.take([0], axis=axis))
    return facet[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(facet.ndim))]


def _axes(call: Call) -> list[int]:
    given = call.arguments.get("dim", call.arguments.get("axis"))
    ndim = len(call.x.shape)
    if given is None or given == []:
        return list(range(ndim))
    listed = given if isinstance(given, (list, tuple)) else [given]
    return [int(axis) % max(ndim, 1) for axis in listed]


def pooling(call: Call) -> Result:
    """Pool or resize the spatial axes; channels pass unless they stand on such an axis."""
    kept = []
    for facet in call.x.facets:
        changed = range(min(2, facet.ndim - 1), facet.ndim)
        if any(varies(facet, axis) for axis in changed):
            call.freeze(facet, "pools or resizes an axis of channels")
        else:
            kept.append(facet)
    values = tuple(Value(s, tuple(kept)) for s in call.shapes)
    return values if len(values) > 1 else values[0]


def unknown(call: Call) -> Result:
    """Freeze what an operator without a row reads; what it writes has no channels."""
    for value in call.values:
        for facet in value.facets:
            call.freeze(
                facet,
                "an operator that lissom does not know",
                "leave the layers around it whole, or replace it by known operators",
            )
    values = tuple(Value(s) for s in call.shapes)
    return values if len(values) != 1 else values[0]


def fixed(reason: str, remedy: str = "") -> Rule:
    """Give a rule that freezes every channel that reaches the operator, for a known reason."""

    def rule(call: Call) -> Result:
        for value in call.values:
            for facet in value.facets:
                call.freeze(facet, reason, remedy)
        values = tuple(Value(s) for s in call.shapes)
        return values if len(values) != 1 else values[0]

    return rule


def _rows(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


# A trailing underscore (in place) is removed before looking up.
TABLE: dict[str, Rule] = {
    **_rows(layers.convolution, "conv1d conv2d conv3d"),
    **_rows(layers.transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    **_rows(layers.linear, "linear"),
    **_rows(layers.normalisation, "batch_norm instance_norm"),
    **_rows(layers.group_norm, "group_norm"),
    **_rows(layers.layer_norm, "layer_norm rms_norm"),
    **_rows(layers.prelu, "prelu"),
    **_rows(layers.matrix_product, "matmul bmm mm baddbmm addmm"),
    **_rows(layers.attention, "scaled_dot_product_attention"),
    **_rows(
        shape.reshape,
        "view reshape flatten unflatten squeeze unsqueeze view_as reshape_as _unsafe_view",
    ),
    **_rows(shape.permute, "permute"),
    **_rows(shape.transpose, "transpose t swapaxes swapdims numpy_T"),
    **_rows(shape.expand, "expand expand_as broadcast_to"),
    **_rows(shape.repeat, "repeat tile"),
    **_rows(shape.concatenate, "cat concat concatenate"),
    **_rows(shape.stack, "stack"),
    **_rows(shape.split, "split chunk split_with_sizes tensor_split"),
    **_rows(shape.slicing, "slice"),
    **_rows(shape.narrow, "narrow"),
    **_rows(shape.select, "select"),
    **_rows(shape.unbind, "unbind"),
    **_rows(shape.pad, "pad constant_pad_nd reflection_pad1d reflection_pad2d replication_pad2d"),
    **_rows(shape.flip, "flip"),
    **_rows(shape.channel_shuffle, "channel_shuffle native_channel_shuffle"),
    **_rows(shape.pixel_shuffle, "pixel_shuffle"),
    **_rows(shape.pixel_unshuffle, "pixel_unshuffle"),
    **_rows(
        reduction,
        "mean sum amax amin prod var std logsumexp linalg_vector_norm norm any all max min",
    ),
    **_rows(over_axis, "softmax log_softmax cumsum cumprod"),
    **_rows(
        pooling,
        "max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
        "adaptive_avg_pool2d "
        "adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d max_pool2d_with_indices "
        "lp_pool2d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d "
        "upsample_bicubic2d "
        "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact2d",
    ),
    **_rows(
        elementwise,
        "add sub mul div rsub pow maximum minimum addcmul addcdiv where lerp fmod remainder "
        "atan2 floor_divide "
        "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh "
        "sigmoid tanh softplus "
        "softsign log_sigmoid hardshrink softshrink tanhshrink threshold rrelu logit "
        "abs neg exp expm1 log log2 log10 log1p sqrt rsqrt square reciprocal sign sin cos tan "
        "erf floor ceil round "
        "trunc frac clamp clamp_min clamp_max clip nan_to_num "
        "dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout "
        "clone contiguous alias detach lift_fresh_copy to type_as float half double _to_copy "
        "eq ne lt le gt ge logical_and logical_or logical_not bitwise_not bitwise_and bitwise_or "
        "isnan isinf "
        "zeros_like ones_like full_like rand_like randn_like empty_like fill zero copy masked_fill",
    ),
    **_rows(in_first, "bernoulli uniform normal"),
    **_rows(
        constant,
        "zeros ones full empty arange linspace scalar_tensor eye rand randn randperm new_zeros "
        "new_ones new_full "
        "new_empty tensor tril triu meshgrid _assert_tensor_metadata",
    ),
    **_rows(
        fixed("picks channels by number", "use split, chunk or a layer"),
        "index index_select gather roll",
    ),
    **_rows(fixed("sorts or searches over channels"), "sort topk argmax argmin argsort"),
}


def rule_of(name: str) -> Rule:
    """Give the rule of an operator by its name without overload; ``unknown`` if there is no row."""
    return TABLE.get(name) or TABLE.get(name.removesuffix("_")) or unknown
