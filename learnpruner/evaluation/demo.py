"""A user's own picture: the answers with and without pruning, and a picture of the tokens kept."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from learnpruner.backbones import Backbone
from learnpruner.benchmarks.base import Example
from learnpruner.benchmarks.prompting import encode_prompts
from learnpruner.data.image import UnreadableImage, open_image
from learnpruner.evaluation.examples import run_examples
from learnpruner.evaluation.reports import drawn
from learnpruner.evaluation.results import EvaluationResult
from learnpruner.plan import Plan
from learnpruner.utils.errors import UserError
from learnpruner.utils.privacy import hide_path_values


def read_image(file: str | Path) -> Image.Image:
    """Open a picture file.

    Raises:
        UserError: where it is none.
    """
    try:
        return open_image(Path(file))
    except UnreadableImage as error:
        raise UserError(f"image={file} cannot be read as a picture: {error}.") from None


def check_length(backbone: Backbone, example: Example) -> None:
    """Refuse a question that does not fit, with its picture, into the positions that the model was made for."""
    tokens = encode_prompts(backbone, [example.image], [example.question])["input_ids"].shape[1]
    positions = backbone.model.config.get_text_config().max_position_embeddings
    if tokens > positions:
        raise UserError(
            f"question= takes {tokens} tokens with its picture, and the model has {positions} positions: ask a shorter one."
        )


def answer_question(
    backbone: Backbone,
    plan: Plan,
    image: str | Path,
    question: str,
    folder: Path,
    source: str | None = None,
    max_new_tokens: int = 32,
) -> tuple[Path, str]:
    """Write results.json and tokens.png into `folder`; return the first and the lines to print.

    Args:
        backbone: that answers.
        plan: under which it answers, beside the unpruned model.
        image: a picture file.
        question: about it.
        folder: of the run.
        source: where the plan comes from, for the record.
        max_new_tokens: of an answer.

    Raises:
        UserError: where the picture is none, or the question too long.
    """
    family = backbone.family
    example = Example(read_image(image), question, "", "own", 0)
    check_length(backbone, example)
    (found,) = run_examples(backbone, plan, [example], max_new_tokens=max_new_tokens)
    tokens = plan.tokens(family.tokens, family.layers)
    measured = {
        **hide_path_values({"image": str(image)}),
        "question": question,
        "prune_ratio": plan.prune_ratio,
        "tokens": tokens,
        "unpruned": found.unpruned.strip(),
        "pruned": found.pruned.strip(),
    }
    lines = [
        f"question: {question}",
        f"unpruned, {family.tokens} visual tokens: {measured['unpruned']}",
        f"pruned, {tokens['averaged']:.1f} on average: {measured['pruned']}",
    ]
    path, _ = EvaluationResult(source, backbone.name, "picture", measured).write(folder / "results.json")
    title = plan.describe(family.tokens, family.layers)

    def draw() -> Path:
        from learnpruner.evaluation.plots import draw_looks

        return draw_looks([found], folder / "tokens.png", title)

    lines += [f"picture: {one}" for one in drawn(draw)]
    return path, "\n".join(lines)
