"""Signals and views: what a pruner may look at.

A pruner lists signals in `needs`; the engine computes these and no others, and hands them over in a `View`:

    needs = frozenset({CLS_ATTENTION, VISION_KEYS.at(-1)})
    ...
    attention = view[CLS_ATTENTION]  # (B, H, N)
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from learnpruner.core.selection import gather_tokens
from learnpruner.utils.errors import UserError


@dataclass(frozen=True)
class SignalInfo:
    """One line of the table of signals.

    Args:
        shape: dimensions, by the letters of the package, such as "B H N".
        stages: where a pruner can read it: "before" the LLM, "inside" it, or "both".
        meaning: what it is, and from which layer by default.
    """

    shape: str
    stages: str
    meaning: str

    def axis(self, letter: str) -> int | None:
        """Find the dimension of this letter, None where there is none."""
        letters = self.shape.split()
        return letters.index(letter) if letter in letters else None


SIGNALS: dict[str, SignalInfo] = {
    # of the vision tower; by default of the layer whose output the projector reads
    "cls_attention": SignalInfo("B H N", "before", "the [CLS] row of a layer, each head"),
    "cls_attention_joined": SignalInfo("B N", "before", "that row as if all heads were one: softmax(q K^T / sqrt(C))"),
    "received_attention": SignalInfo("B N", "before", "what a patch receives in a layer: mean over heads and queries"),
    "vision_keys": SignalInfo("B H N d", "before", "keys of a layer, unscaled"),
    "cls_state": SignalInfo("B D", "before", "[CLS] as the projector would read it; at the encoder"),
    "vision_states": SignalInfo("B N D", "before", "what the projector reads of the patches, for stages behind it"),
    "image_key": SignalInfo("B", "before", "int64 hash of the pixels: seeds what no batch mate can change"),
    # of the question, the prompt's text after the row's last image; fillers come first
    "text_embeds": SignalInfo("B T D", "both", "input embeddings of the question, D of the LLM"),
    "text_mask": SignalInfo("B T", "both", "which of the question's rows are real"),
    "text_ids": SignalInfo("B T", "before", "token ids of the question"),
    "text_queries": SignalInfo("B H T d", "before", "the question's queries in an LLM layer, the first, without RoPE; at 0"),
    "token_keys": SignalInfo("B H N d", "before", "the tokens' keys in that layer, repeated to H heads; at 0"),
    # inside the LLM; by default of the layer before the cut
    "text_attention": SignalInfo("B N", "inside", "attention of the question: mean over heads and rows"),
    "text_rows": SignalInfo("B H T N", "inside", "attention of each of the question's rows"),
    "last_attention": SignalInfo("B H N", "inside", "attention of the question's last row"),
    "next_attention": SignalInfo("B H N", "inside", "the same in the layer after the cut"),
    "next_text_attention": SignalInfo("B N", "inside", "text_attention in the layer after the cut"),
    "keys": SignalInfo("B N C", "inside", "keys of all heads after RoPE, counted from the prompt's first token"),
    "text_keys": SignalInfo("B T C", "inside", "the same of the question"),
    "states": SignalInfo("B N D", "inside", "hidden states that enter the cut, after the LLM's final norm"),
    "text_states": SignalInfo("B T D", "inside", "the same of the question"),
    "entered_embeds": SignalInfo("B M D", "inside", "embeddings of all visual tokens that entered the LLM, fillers first"),
    "entered_mask": SignalInfo("B M", "inside", "which of these are real"),
}  # fmt: skip


@dataclass(frozen=True)
class Signal:
    """Something that a pruner wants to see beside the tokens.

    Args:
        name: a key of `SIGNALS`. A name that begins with "_" is a method's own, for values that travel with the rows of a
            view from one of its methods to another; the engine computes none.
        layer: index of the layer, from 0, where the default does not fit; in the vision tower also -1 for the last, and
            "9/24" for the ninth of 24 layers, scaled to the tower's depth.

    Raises:
        UserError: where there is no such signal.
    """

    name: str
    layer: int | str | None = None

    def __post_init__(self) -> None:
        if self.name not in SIGNALS and not self.name.startswith("_"):
            close = difflib.get_close_matches(self.name, SIGNALS, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(SIGNALS)}."
            raise UserError(f"Signal({self.name!r}) is refused: there is no such signal; {hint}")

    def at(self, layer: int | str) -> Signal:
        """Name the same signal of another layer."""
        return replace(self, layer=layer)

    @property
    def axis(self) -> int | None:
        """The dimension that runs over the N tokens; None where none does."""
        return SIGNALS[self.name].axis("N") if self.name in SIGNALS else None

    @property
    def text_axis(self) -> int | None:
        """The dimension that runs over the T rows of the question; None where none does."""
        return SIGNALS[self.name].axis("T") if self.name in SIGNALS else None


CLS_ATTENTION = Signal("cls_attention")
CLS_ATTENTION_JOINED = Signal("cls_attention_joined")
RECEIVED_ATTENTION = Signal("received_attention")
VISION_KEYS = Signal("vision_keys")
CLS_STATE = Signal("cls_state")
VISION_STATES = Signal("vision_states")
IMAGE_KEY = Signal("image_key")
TEXT_EMBEDS = Signal("text_embeds")
TEXT_MASK = Signal("text_mask")
TEXT_IDS = Signal("text_ids")
TEXT_QUERIES = Signal("text_queries")
TOKEN_KEYS = Signal("token_keys")
TEXT_ATTENTION = Signal("text_attention")
TEXT_ROWS = Signal("text_rows")
LAST_ATTENTION = Signal("last_attention")
NEXT_ATTENTION = Signal("next_attention")
NEXT_TEXT_ATTENTION = Signal("next_text_attention")
KEYS = Signal("keys")
TEXT_KEYS = Signal("text_keys")
STATES = Signal("states")
TEXT_STATES = Signal("text_states")
ENTERED_EMBEDS = Signal("entered_embeds")
ENTERED_MASK = Signal("entered_mask")


@dataclass(frozen=True)
class View:
    """What a pruner may look at.

    Rows of a view are alike: the engine shows those that differ in tokens, in grid or in length of question apart, so that
    no row sees what its batch mates are.

    Args:
        tokens: (B, N, D) candidates in reading order.
        valid: (B, N) bool, None where all are real.
        grid: (H, W) of the image's patches; None where they lie on several, or an earlier stage has dropped some.
        signals: what the pruner declared in `needs`; read them as view[signal].
        frames: T images a row, one after the other, for pruners that choose across the images of a prompt: then
            N = T x H x W, and rows that show fewer images end in tokens that are not `valid`.
    """

    tokens: Tensor
    valid: Tensor | None = None
    grid: tuple[int, int] | None = None
    signals: Mapping[Signal, Tensor] = field(default_factory=dict)
    frames: int = 1

    def __getitem__(self, signal: Signal) -> Tensor:
        if signal not in self.signals:
            raise KeyError(
                f"{signal} was not declared: add it to the pruner's `needs`, and the engine will compute it."
            )
        return self.signals[signal]

    def plane(self, method: str) -> tuple[int, int]:
        """Read the grid that the tokens are, all of them, for a method that looks at an image's plane.

        Args:
            method: its name, for the refusal.

        Returns:
            (H, W) with N = T x H x W.

        Raises:
            UserError: where the tokens are no whole grid.
        """
        if self.grid is None or self.grid[0] * self.grid[1] * self.frames != self.tokens.shape[1]:
            raise UserError(
                f"{method} needs all patches of an image, on one grid: put it first, at the encoder or at 0, and show it "
                "images that are not cut into tiles and, within a prompt, are of one size."
            )
        return self.grid

    def part(self, rows: Tensor, places: Tensor) -> View:
        """Show some rows (G,), and of these only the candidates at places (G, M)."""

        def seen(values: Tensor, axis: int | None) -> Tensor:
            mine = values[rows.to(values.device)]
            return mine if axis is None else gather_tokens(mine.transpose(1, axis), places).transpose(1, axis)

        signals = {signal: seen(values, signal.axis) for signal, values in self.signals.items()}
        valid = None if self.valid is None else seen(self.valid, 1)
        return replace(self, tokens=seen(self.tokens, 1), valid=valid, signals=signals)
