"""Scenes as a folder in LLaVA-Instruct format."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from learnpruner.data.scenes.dataset import make_scene


def write_folder(out: Path, split: str, count: int, seed: int = 0, questions: int = 8) -> Path:
    """Writes ``out/{split}.json`` (LLaVA-Instruct records: id, image, conversations) and ``out/images/*.png``; returns the JSON's path."""
    (out / "images").mkdir(parents=True, exist_ok=True)
    records = []
    for index in range(count):
        scene = make_scene(split, index, seed, questions)
        name = f"images/{split}-{index:06d}.png"
        assert scene.image is not None
        Image.fromarray(scene.image).save(out / name)
        turns = []
        for turn, question in enumerate(scene.questions):
            turns.append({"from": "human", "value": ("<image>\n" if turn == 0 else "") + question.text})
            turns.append({"from": "gpt", "value": question.answer})
        records.append({"id": f"{split}-{index:06d}", "image": name, "conversations": turns})
    path = out / f"{split}.json"
    path.write_text(json.dumps(records, indent=1))
    return path
