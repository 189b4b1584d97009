"""Seeded answers as models give them on a bad day: articles, contractions, marks, letters in sentences, blanks, Unicode."""

from __future__ import annotations

import random
from collections.abc import Iterator

WORDS = (
    "a an the The A red Red two ten none None zero twenty 2 3.5 .5 1,000 10:30 $4.99 50% dont don't whats what's it's its dog's "
    "couldnt've couldn'tve y'alld've yall 'twas somebody'd oclock t-shirt black&white U.S. e.g. yes no Yes No NO Yes, no. not Not "
    "nothing know yesterday Y n B b C. (D) D) :A A, E unanswerable Unanswerable ½ naïve STRASSE straße İzmir 红色 ² `` [x] {y} @home"
).split()
JOINTS = (" ", " ", " ", "  ", "\n", "\t", "-", " - ", "/", ", ", ". ", "; ", "? ", "'", "\u00a0", "")
ROUND = (
    "{}", "{}", "{}.", " {} ", "{}\n", "({})", '"{}"', "The answer is {}", "The answer is {}.", "It is {}!", "{}?", "{} ASSISTANT: no",
    "\n\t{}", "**{}**", "{},",
)  # fmt: skip

SENTENCES = (
    "{0}", "{0}.", "({0})", "({0}).", "{0})", "{0}: {1}", "{0}. {1}", "({0}) {1}", "The answer is {0}.", "The answer is ({0}).",
    "The answer is {0}", "The correct answer is **{0}**.", "Answer: {0}", "I think that it must be ({0}).", "I would say {0}.",
    "After a close look, the right option is {0}.", "Option {0} is right", "The answer is {0} because of the colour",
    "Of all the options, {0}, as far as I see", "答案是{0}。", "选{0}", "It is hard to say.\nThe answer is {0}\nas you see",
)  # fmt: skip
UNCLEAR = (
    "{1}", "The {1}.", "A {1} is in the picture", "A {1}", "A dog and a {1}", "{0} or {2}", "{2} is wrong, so {0}", "{0}-shaped things",
    "Figure {0} shows a {1} and more", "{0}{2}", "I do not know.", "", " ", "E", "it's {0}'s", "A nice picture of something", "{0}/{2}",
)  # fmt: skip


def free_answers(count: int, seed: int = 0) -> Iterator[str]:
    """Answers of no to four words, joined and wrapped at random."""
    draw = random.Random(seed)
    for _ in range(count):
        text = ""
        for _ in range(draw.randrange(5)):
            text += draw.choice(WORDS) + draw.choice(JOINTS)
        yield draw.choice(ROUND).format(text)


def choice_answers(options: dict[str, str], count: int, seed: int = 0) -> Iterator[str]:
    """Answers to a question with these options, in clear and unclear sentences, some in another case or wrapped again."""
    draw = random.Random(seed)
    for _ in range(count):
        letter, other = draw.sample(sorted(options), 2)
        text = draw.choice(SENTENCES + UNCLEAR).format(letter, options[letter], other)
        yield draw.choice(ROUND).format(text) if draw.random() < 0.3 else text.lower() if draw.random() < 0.1 else text
