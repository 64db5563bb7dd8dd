"""An experiment: a recipe, the folder of its runs, and the processes that work on it.

Each run is resolved once, to one value that everything after it is given (`TrainingRun`).
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tutelage.base import machine
from tutelage.corpus.prepare import Prepared, prepare, prepare_aside
from tutelage.experiment.identity import TrainingRun, resolve
from tutelage.experiment.plans import Plans
from tutelage.experiment.rows import CorpusRows
from tutelage.experiment.runs import in_order, seed_of
from tutelage.recipe import Recipe, Teacher
from tutelage.training.parallel import Group


class Experiment:
    """A recipe, and the folder of its runs: the one in `runs` that is named after it.

    One that is only to be `looked_at` leaves nothing there.

    Raises:
        UserError: models that teach each other in a circle, or a seed that a teacher is not trained with.
    """

    def __init__(self, what: Recipe, runs: Path, group: Group, looked_at: bool = False) -> None:
        self.recipe, self.folder, self.group = what, runs / what.name, group
        self._prepare = prepare_aside if looked_at else prepare
        self.order = in_order(what)
        self._runs: dict[tuple[str, int], TrainingRun] = {}
        machine.set_up()

    @cached_property
    def data(self) -> Prepared:
        """The corpus: downloaded, cleaned and encoded on first use, for which all processes must come together."""
        folder = self.folder / "data"
        prepared = self._prepare(self.recipe.data, folder) if self.group.is_main else None
        self.group.barrier()
        return prepared if prepared is not None else self._prepare(self.recipe.data, folder)

    def prepare(self) -> Prepared:
        """Prepare the corpus now, all processes together, before the first of them needs it alone."""
        return self.data

    @cached_property
    def rows(self) -> CorpusRows:
        """The corpus as models read it."""
        return CorpusRows(self.recipe.data, self.data)

    @cached_property
    def plans(self) -> Plans:
        """What each model reads, for how long, and what that costs."""
        return Plans(self.recipe, self.rows)

    def run(self, reference: Teacher) -> TrainingRun:
        """Return the run that a reference to a model of this recipe means, resolved."""
        key = (reference.model, seed_of(self.recipe, reference))
        if key not in self._runs:
            plan = self.plans.of(reference.model)
            self._runs[key] = resolve(self.recipe, self.data, plan, key[1], self.folder, self.run)
        return self._runs[key]

    def runs(self, only: str | None = None) -> list[TrainingRun]:
        """Return the runs in their order; of one model and those it needs if one is named."""
        return [self.run(reference) for reference in (self.order if only is None else in_order(self.recipe, only))]
