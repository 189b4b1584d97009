"""Base of methods whose scores are learned."""

from __future__ import annotations

from learnpruner.core.pruner import ScorePruner
from learnpruner.utils.errors import UserError


class LearnedScorer(ScorePruner):
    """A scorer of tokens of one width: known when it is made, or told by the backbone that its plan meets.

    A subclass makes empty modules in its constructor, ends it with `self.settle(width)`, and fills them in `build`.

    Attributes:
        width: D of the tokens; None until it is known.
    """

    width: int | None = None

    def settle(self, width: int | None) -> None:
        """Build for tokens of this width; None waits for the backbone."""
        self.width = width
        if width is not None:
            self.build(width)

    def build(self, width: int) -> None:
        """Make the weights for tokens of this width, D."""
        raise NotImplementedError

    def prepare(self, width: int) -> None:
        if self.width is None:
            self.settle(width)
        if self.width != width:
            raise UserError(
                f"This pruner was made for tokens of width {self.width}, the backbone has {width}: give the plan the "
                "backbone that its config.json names (backbone.path=), or train one for this."
            )
