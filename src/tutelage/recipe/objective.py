"""What all terms of a loss have in common; see `recipe` for the whole."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tutelage.recipe.data import Section


class Objective(Section):
    """One term of the loss and its weight."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """Factor before the term; terms are means over their own targets."""
