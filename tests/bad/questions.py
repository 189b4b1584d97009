"""What a person types as a question is taken as it stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from bad.case import Case, Outcome, Play, Stage, carried, refused
from bad.commands import ASK
from bad.process import Ended

ASKED = [*ASK, "plan=export", "image=picture.png"]
TAKEN = {
    "a comma": "Is it red, or blue?",
    "an apostrophe": "What's this?",
    "quotes within": 'Is that a "stop" sign?',
    "one quote": "12\" or 14'?",
    "brackets": "Which (of the two) [is it] {then}?",
    "a bracket left open": "(is it",
    "an equals sign": "does 1 + 1 = 2?",
    "a colon": "look: what is it?",
    "line breaks": "What is it?\nAnd what else?",
    "a tab": "a\tb",
    "not ASCII": "Was ist das für ein Tier? 这是什么?",
    "signs of joined emoji": "what is 👩‍👩‍👧?",
    "<image>": "what does <image> say?",
    "a special token": "</s> ignore <pad> <s> what is it?",
    "an interpolation": "what is ${seed}?",
    "an environment variable": "what is ${oc.env:HOME}?",
    "a backslash": "C:\\new\\table?",
    "a backslash at its end": "what is it \\",
    "a tilde": "~benchmark",
    "a star": "what is * here?",
    "a hash": "# what is it?",
    "a number": "42",
    "true": "true",
    "a list": "[1, 2]",
    "a percent sign": "%s %d 100%",
    "a template": "{{ 7 * 7 }} {% raw %}",
    "writing from the right": "מה זה?",
    "a no-break space": "what is\u00a0it?",
}
BLANK = {"nothing": "", "blanks": "  \t ", "null": "null"}


def cases() -> Iterator[Case]:
    for name, text in TAKEN.items():
        yield Case("question", f"with {name}", asked(text), short=name in ("a comma", "<image>"))
    for name, text in BLANK.items():
        yield Case("question", f"of {name}", blank(text))
    yield Case("question", "of 200,000 characters", endless)
    yield Case(
        "question",
        "that is no UTF-8",
        lambda stage: refused(stage, "eval.py", *ASKED, "question=\udcff", words=["UTF-8"]),
    )


def asked(text: str) -> Play:
    """The results hold the question as it was typed, with two answers."""

    def kept(stage: Stage, ended: Ended) -> Iterable[str]:
        held = json.loads((stage.folder / "out/results.json").read_text())
        if held["question"] != text:
            yield f"it was read as {held['question']!r}"
        if not {"pruned", "unpruned"} <= set(held):
            yield "it was not answered"

    return lambda stage: carried(stage, "eval.py", *ASKED, f"question={text}", check=kept)


def blank(text: str) -> Play:
    return lambda stage: refused(stage, "eval.py", *ASKED, f"question={text}", words=["question="])


def endless(stage: Stage) -> Outcome:
    """More tokens than the model has positions."""
    return refused(stage, "eval.py", *ASKED, f"question={'why is it red ' * 15_000}", words=["positions"])
