"""A language model behind a chat API as the judge of open answers; off unless a benchmark is given one."""

from __future__ import annotations

import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Protocol

from learnpruner.utils.errors import UserError

JUDGE_PROMPT = """A model was asked about a video. Say whether its answer means the same as the right answer; synonyms and
paraphrases do. Reply with one word, yes or no.
Question: {question}
Right answer: {answer}
Answer of the model: {prediction}"""


class Judge(Protocol):
    """Decides whether an answer means the same as the right one."""

    def __call__(self, question: str, answer: str, prediction: str) -> float:
        """Credit in [0, 1]."""


@dataclass(frozen=True)
class ChatJudge:
    """Asks an OpenAI-compatible endpoint, at temperature 0.

    Args:
        url: of the API, such as http://localhost:8000/v1.
        model: its name there; part of the result, as another judge moves scores by several points.
        key: environment variable that holds the API key.
        timeout: seconds.
    """

    url: str
    model: str
    key: str = "OPENAI_API_KEY"
    timeout: float = 60.0

    def __call__(self, question: str, answer: str, prediction: str) -> float:
        text = JUDGE_PROMPT.format(question=question, answer=answer, prediction=prediction)
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": text}]}
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ.get(self.key, '')}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                said = json.load(reply)["choices"][0]["message"]["content"]
        except (urllib.error.URLError, TimeoutError, KeyError, ValueError) as error:
            raise UserError(f"The judge {self.model} at {self.url} gives no verdict: {error}.") from None
        return float(re.match(r"\W*yes\b", said.lower()) is not None)
