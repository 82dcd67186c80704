"""EDP's relaxation: every layer a compressed-aware block, every channel free to vanish."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lissom.clock import Clock
from lissom.extension import StepState
from lissom.graph.layers import ModelGraph
from lissom.graph.offers import decomposable_layers
from lissom.lowrank.families import family_named
from lissom.lowrank.metric import metric_for
from lissom.relaxation.block import put_block, scratch_factors, spatial_factors, whitened_factors
from lissom.relaxation.candidates import relaxed_layers, shrinkable
from lissom.relaxation.columns import Columns, as_cube
from lissom.relaxation.merging import Hardened, Pays, prune_and_merge
from lissom.relaxation.neighbours import norms_behind, output_scales
from lissom.relaxation.rows import Rows, filter_rows, learnable_rows
from lissom.relaxation.settings import RelaxationSettings
from lissom.relaxation.support import COLUMNS, ROWS, Key, Support, as_support
from lissom.search.price import Configuration, LowRank, Pricer


class RankAndChannels:
    """The relaxation of EDP.

    Attributes:
        name: ``rank_and_channels``.
        graph: Of the network before it was relaxed.
        columns: Per relaxed layer its columns.
        rows: Per channel group that may shrink its channels.
        refused: Per channel group that may not shrink the reason.
        whole: Per layer that could be factored and is not the reason.
    """

    name = "rank_and_channels"

    def __init__(  # noqa: PLR0913  (what is relaxed, how, and by what it is judged)
        self,
        model: nn.Module,
        graph: ModelGraph,
        example_inputs: tuple[Tensor, ...],
        settings: RelaxationSettings | None = None,
        *,
        covariances: Mapping[str, Tensor] | None = None,
        ignore: Collection[str] = (),
        clock: Clock | None = None,
    ) -> None:
        """Choose what to relax; nothing is changed yet.

        Args:
            model: The network, in eval mode; kept, never changed.
            graph: What it is made of.
            example_inputs: Inputs of any batch size.
            settings: What may vanish.
            covariances: Per layer E[x x^T] of its inputs, for the whitened form; layers without one
                are measured by their weights.
            ignore: Layers that stay as they are.
            clock: Prices times, too; None: none.
        """
        self.graph, self._model, self._inputs = graph, model, example_inputs
        self._settings = settings or RelaxationSettings()
        self._covariances = covariances or {}
        self._ignore = frozenset(ignore)
        self.columns: dict[str, Columns] = {}
        self.rows: dict[str, Rows] = {}
        self.refused: dict[str, str] = {}
        self.whole: dict[str, str] = {}
        self._pressure: dict[Key, Tensor] = {}
        self._support: Support | None = None
        self._held: dict[Key, Tensor] = {}
        self._highest: dict[str, int] = {}
        self._pricer = Pricer(model, graph, clock)

    @property
    def power(self) -> int:
        """Of the strength in what decides and vanishes: 2 for energies, 1 for norms."""
        return 1 if self._settings.penalty == "norm" else 2

    @property
    def decays(self) -> bool:
        """Tell whether only what is chosen to go shrinks."""
        return self._settings.penalty == "decay"

    @property
    def pricer(self) -> Pricer:
        """Prices what ``expected`` gives."""
        return self._pricer

    def relax(self, relaxed: nn.Module) -> nn.Module:
        """Turn a copy of the network into its relaxed form, in place, and give it back.

        Started from trained weights it computes what the network did, to float rounding.
        """
        mode = relaxed.training
        relaxed.eval()
        layers = relaxed_layers(self.graph, self._ignore) if COLUMNS in self._settings.learn else ()
        if layers:
            whole = decomposable_layers(self.graph) - {*layers, *self._ignore}
            for layer in (spec.name for spec in self.graph.layers if spec.name in whole):
                self.whole[layer] = "it reads the network's input or gives its output"
        norms = norms_behind(self._model, layers, self._inputs)
        for layer in layers:
            scales = output_scales(self._model, norms.get(layer))
            self.columns[layer] = self._relax_layer(relaxed, layer, scales)
        if ROWS in self._settings.learn:
            for row in self._find_rows(relaxed):
                self.rows[row.group.name] = row
        return relaxed.train(mode)

    def expected(self) -> Configuration:
        """Say what the network would be if it were hardened now: kept channels and ranks.

        A layer whose pair of factors would be merged counts as the one layer.
        """
        alive = {key: strengths > 0 for key, strengths in self.strengths().items()}
        return self.configuration(as_support(alive))

    def configuration(self, support: Support) -> Configuration:
        """Say what the network would be if only a support were left of it."""
        kept = {name: _indices(mask) for name, mask in support.rows.items() if not bool(mask.all())}
        ranks = {layer: max(1, int(mask.sum())) for layer, mask in support.columns.items()}
        pairs = {
            layer: LowRank(self.columns[layer].block.family, (rank,))
            for layer, rank in ranks.items()
            if self.pays(layer, rank, kept)
        }
        return Configuration(kept, pairs)

    def pays(self, layer: str, rank: int, kept: Mapping[str, tuple[int, ...]]) -> bool:
        """Say whether a pair of factors is to stay two layers, given the kept channels.

        It is where that costs less than the one layer, in MACs and in parameters, and the rank is
        not above what ``limit_ranks`` allows. With ``merge=never`` it is wherever the rank is no
        larger than both sides of the matrix.
        """
        inputs, outputs = self._pricer.channels(layer, Configuration(kept))
        shape = replace(self._pricer.shapes[layer], in_channels=inputs, out_channels=outputs)
        family = family_named(self.columns[layer].block.family)
        if self._settings.merge == "never":
            return (rank,) <= family.full_ranks(shape)
        return rank <= self._highest.get(layer, rank) and family.saves(shape, (rank,))

    def limit_ranks(self, highest: Mapping[Key, int]) -> None:
        """Let pairs of more columns become one layer, whatever they would save.

        Args:
            highest: Of layers the most columns of a pair; 0: it becomes one layer in any case.
        """
        self._highest |= {n: most for (kind, n), most in highest.items() if kind == COLUMNS}

    def strengths(self) -> dict[Key, Tensor]:
        """Give how strong every column and channel is, on the CPU; 0 where it has vanished."""
        columns = {(COLUMNS, n): one.strengths().cpu() for n, one in self.columns.items()}
        return columns | {(ROWS, n): one.strengths().cpu() for n, one in self.rows.items()}

    def press(self, pressure: Mapping[Key, float | Tensor]) -> None:
        """Set how much strength each step takes, from now on.

        Args:
            pressure: Per unit of learning rate, for all columns or channels of a group; where it
                ``decays`` the share per step of each of them, (r,) or (channels,).
        """
        self._pressure = {key: self._beside(key, value) for key, value in pressure.items()}

    def after_step(self, step: StepState) -> None:
        """Fix the gauge, then make the proximal step; or hold the frozen support."""
        for columns in self.columns.values():
            columns.fix_gauge(step.optimizer)
        if self._support is not None:
            self.hold()
            return
        rate, power = (1.0, 0) if self.decays else (step.learning_rate, self.power)
        for key, pressure in self._pressure.items():
            self._group(key).shrink(pressure * rate, power)

    def refit(self, support: Support, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Let the columns that stay take over, as well as they can, what the others do.

        Each layer's weight, as it is now, is approximated anew at its rank, for the least error of
        its output (alternating least squares, where the split has no closed form). Only where the
        inputs' covariance is known.

        Args:
            support: What will stay.
            optimizer: Whose momenta of the new factors are forgotten; None: there is none.
        """
        for name, mask in support.columns.items():
            covariance = self._covariances.get(name)
            if covariance is not None and self._settings.form == "whitened":
                self.columns[name].refit(mask, covariance, optimizer)

    def freeze(self, support: Support) -> None:
        """Let everything outside ``support`` vanish, for good."""
        self._support = support
        self._pressure = {}
        masks = {(COLUMNS, name): mask for name, mask in support.columns.items()}
        masks |= {(ROWS, name): mask for name, mask in support.rows.items()}
        self._held = {key: self._beside(key, mask) for key, mask in masks.items()}
        self.hold()
        for name, mask in support.columns.items():
            self.columns[name].block.use(mask)

    @property
    def support(self) -> Support | None:
        """What was frozen, or None."""
        return self._support

    def hold(self) -> None:
        """Put back the zeros of the frozen support."""
        for key, mask in self._held.items():
            self._group(key).keep(mask)

    def harden(self, relaxed: nn.Module, pays: Pays | None = None) -> Hardened:
        """Prune and merge: give the plan and the values of the network that is left.

        Args:
            relaxed: Stays as it is.
            pays: Whether a layer's pair of factors is to stay two layers; None decides by cost.
        """
        return prune_and_merge(
            relaxed, self.graph, self.columns, self.rows, pays or self.pays, self._inputs
        )

    def parameters(self) -> Iterable[nn.Parameter]:
        """Give the weights that weight decay must leave alone: their scale is the gauge's."""
        for columns in self.columns.values():
            yield columns.block.basis
            yield columns.block.coefficients

    def state_dict(self) -> dict[str, Tensor]:
        """Give pressures, units and the frozen support."""
        state = {f"pressure.{kind}.{name}": value for (kind, name), value in self._pressure.items()}
        for kind, name in self._keys():
            unit = torch.tensor(self._group((kind, name)).total, dtype=torch.float64)
            state[f"unit.{kind}.{name}"] = unit
        for name, highest in self._highest.items():
            state[f"highest.{COLUMNS}.{name}"] = torch.tensor(highest)
        if self._support is not None:
            state |= {f"support.{COLUMNS}.{n}": m for n, m in self._support.columns.items()}
            state |= {f"support.{ROWS}.{n}": m for n, m in self._support.rows.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from ``state_dict``'s output."""
        kinds = ("pressure", "support", "unit", "highest")
        found: dict[str, dict[Key, Tensor]] = {kind: {} for kind in kinds}
        for name, value in state.items():
            what, kind, key = name.split(".", 2)
            found[what][kind, key] = value.cpu()
        self.press(found["pressure"])
        self._highest = {name: int(value) for (_kind, name), value in found["highest"].items()}
        if found["support"]:
            self.freeze(as_support(found["support"]))
        for unit, value in found["unit"].items():
            self._group(unit).total = float(value)

    def _group(self, key: Key) -> Columns | Rows:
        kind, name = key
        return self.columns[name] if kind == COLUMNS else self.rows[name]

    def _beside(self, key: Key, value: float | Tensor) -> Tensor:
        """Put what every step reads on the device of a group: a copy would make a GPU wait."""
        return torch.as_tensor(value).to(self._group(key).device)

    def _keys(self) -> list[Key]:
        return [*((COLUMNS, name) for name in self.columns), *((ROWS, name) for name in self.rows)]

    def _relax_layer(self, relaxed: nn.Module, layer: str, scales: Tensor | None) -> Columns:
        weight = self._model.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        whitened = self._settings.form == "whitened"
        covariance = self._covariances.get(layer) if whitened else None
        trained = self._settings.start == "trained"
        block = put_block(relaxed, layer, self._settings.split)
        split = spatial_factors if block.family == "spatial_svd" else whitened_factors
        block.fill(split(weight, covariance) if trained else scratch_factors(weight))
        metric = metric_for(as_cube(weight.detach()), covariance) if whitened else None
        columns = Columns(layer, block, metric, scales if whitened else None)
        columns.balance()
        return columns

    def _find_rows(self, relaxed: nn.Module) -> list[Rows]:
        everywhere = self._settings.row_groups == "all"
        groups, coupled = shrinkable(self._model, self.graph, self._ignore, coupled=everywhere)
        self.refused |= coupled
        if self._settings.row_parts == "filters":
            return filter_rows(relaxed, groups)
        rows, refused = learnable_rows(relaxed, groups, self._inputs)
        self.refused |= refused
        return rows


def _indices(mask: Tensor) -> tuple[int, ...]:
    kept = tuple(torch.nonzero(mask).flatten().tolist())
    return kept or (0,)
