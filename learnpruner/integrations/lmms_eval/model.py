"""The chat model that lmms-eval runs. https://github.com/EvolvingLMMs-Lab/lmms-eval"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from tqdm import tqdm
from transformers import BatchFeature

import learnpruner
from learnpruner.backbones import load_backbone
from learnpruner.benchmarks.video import read_frames, video_inputs
from learnpruner.data.image import open_image
from learnpruner.data.image_padding import pad_visuals
from learnpruner.data.plain import protect_special_tokens
from learnpruner.utils.errors import UserError

_Messages = list[dict[str, Any]]


class LearnPrunerLmm(lmms):
    """An unmodified Hugging Face backbone under an exported plan.

    Args:
        pretrained, revision: the backbone, a folder or a hub id.
        plan: an export, a folder or a hub id; None is the unpruned model.
        prune_ratio: another budget than the export's.
        dtype, attn_implementation: of the backbone.
        batch_size: prompts answered together; part of the result.
        frames: of a video.
        allow: a package beside this one whose pruners the plan may have.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "llava-hf/llava-1.5-7b-hf",
        plan: str | None = None,
        prune_ratio: float | None = None,
        revision: str | None = None,
        dtype: str = "bfloat16",
        attn_implementation: str = "sdpa",
        device: str | None = None,
        batch_size: int | str = 1,
        frames: int = 8,
        allow: str | None = None,
        max_batch_size: int | None = None,  # lmms-eval hands it to every model; batches here are as large as asked for
    ) -> None:
        super().__init__()
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        place = device if device and self._world_size == 1 else str(self.accelerator.device)
        self.backbone = load_backbone(pretrained, revision, dtype, place, attn_implementation)
        self.plan = (
            None
            if plan is None
            else learnpruner.load(plan, prune_ratio, [allow] if allow else []).prepare(self.backbone.family)
        )
        if self.plan is None and prune_ratio is not None:
            raise UserError(f"prune_ratio={prune_ratio} needs plan=PATH: the unpruned model has no budget.")
        if self.plan is not None:
            self.plan.attach(self.backbone.model)
        self.batch_size, self.frames = int(batch_size), frames

    @property
    def device(self) -> torch.device:
        """Where lmms-eval puts the counts that its processes exchange."""
        return self.accelerator.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers in the order of the requests; those with equal settings share batches."""
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[2].items())), []).append(number)
        answers = [""] * len(requests)
        with tqdm(total=len(requests), disable=self.rank != 0, desc="learnpruner") as bar:
            for numbers in groups.values():
                for start in range(0, len(numbers), self.batch_size):
                    batch = numbers[start : start + self.batch_size]
                    texts = self.answer([requests[number].args for number in batch])
                    for number, text in zip(batch, texts, strict=True):
                        answers[number] = text
                        context, _, settings, *_ = requests[number].args
                        self.cache_hook.add_partial("generate_until", (context, settings), text)
                    bar.update(len(batch))
        return answers

    def answer(self, arguments: Sequence[tuple[Any, ...]]) -> list[str]:
        """Answer the messages of a batch.

        Args:
            arguments: (context, doc_to_messages, settings, doc_id, task, split) of requests with equal settings.
        """
        messages = [ask(self.task_dict[task][split][doc]) for _, ask, _, doc, task, split in arguments]
        inputs, settings = self.encode(messages), arguments[0][2]
        with torch.inference_mode():
            out = self.backbone.model.generate(**inputs, **generate_arguments(settings))
        new = out[:, inputs["input_ids"].shape[1] :]
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        return [
            cut_at_stop(text, stops) for text in self.backbone.processor.batch_decode(new, skip_special_tokens=True)
        ]

    def encode(self, messages: Sequence[_Messages]) -> BatchFeature:
        """Prompts through the processor's chat template, padded on the left."""
        processor = protect_special_tokens(self.backbone.processor)
        visuals: dict[str, list[Any]] = {"images": [], "videos": []}
        for part in (part for turns in messages for turn in turns for part in turn["content"]):
            if part["type"] == "image":
                visuals["images"].append(open_image(part["url"]))
            elif part["type"] == "video":
                visuals["videos"].append(read_frames(Path(part["url"]), self.frames))
        texts = [
            processor.apply_chat_template(
                without_pictures(turns, processor.tokenizer.protect), add_generation_prompt=True
            )
            for turns in messages
        ]
        aspect = "processor" if self.plan is None else self.plan.image_aspect
        pictures = pad_visuals(visuals["images"], aspect, processor)
        given: dict[str, Any] = {"images": pictures} if pictures else {}
        if visuals["videos"]:
            given |= video_inputs(visuals["videos"])
        inputs = processor(text=texts, padding=True, padding_side="left", return_tensors="pt", **given)
        return inputs.to(self.backbone.model.device, dtype=self.backbone.model.dtype)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError("learnpruner answers by generation: choose a task whose output is generate_until.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("learnpruner answers one round: choose a task whose output is generate_until.")


def without_pictures(turns: _Messages, protect: Callable[[str], str]) -> _Messages:
    """The same turns with the pictures taken out of their places, and their texts protected."""
    text = lambda part: {"text": protect(part["text"])} if part["type"] == "text" else {}  # noqa: E731
    parts = [[{"type": part["type"], **text(part)} for part in turn["content"]] for turn in turns]
    return [{"role": turn["role"], "content": content} for turn, content in zip(turns, parts, strict=True)]


def generate_arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings as arguments of `generate`: greedy unless it asks for a temperature above 0."""
    warm = settings.get("temperature") or 0
    chosen: dict[str, Any] = {"max_new_tokens": settings.get("max_new_tokens", 1024), "do_sample": warm > 0}
    if warm > 0:
        chosen |= {"temperature": warm, "top_p": settings.get("top_p")}
    return chosen | {"num_beams": settings.get("num_beams") or 1, "use_cache": True}


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
