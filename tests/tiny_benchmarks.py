"""The field's benchmarks in small: local folders with the columns of the real ones, a few samples each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from learnpruner.benchmarks.mme import _COGNITION, _PERCEPTION


def color(i: int) -> Image.Image:
    return Image.new("RGB", (24, 16), (37 * i % 256, 91 * i % 256, 200))


def parquet(folder: Path, split: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def pope(folder: Path) -> Path:
    """Two images x three splits x (yes, no)."""
    rows = []
    for category in ("adversarial", "popular", "random"):
        for number in range(4):
            scene = f"COCO_{number // 2}"
            rows.append(
                {
                    "id": str(len(rows)),
                    "question_id": str(number + 1),
                    "question": f"Is there a thing {number} in the image?",
                    "answer": ("yes", "no")[number % 2],
                    "image_source": scene,
                    "image": color(number // 2),
                    "category": category,
                }
            )
    return parquet(folder, "test", rows)


def gqa(folder: Path) -> Path:
    """Six questions on three images, which are listed in another order."""
    questions = [
        {"id": f"q{i}", "imageId": f"n{i % 3}", "question": f"What color is thing {i}?", "answer": "blue"}
        for i in range(6)
    ]
    parquet(folder / "testdev_balanced_instructions", "testdev", questions)
    images = [{"id": f"n{i}", "image": color(i)} for i in (2, 0, 1)]
    parquet(folder / "testdev_balanced_images", "testdev", images)
    return folder


def vqa(folder: Path, split: str, **more: Any) -> Path:
    """Four questions; VQAv2's answers are records, the others' texts."""
    rows = []
    for i in range(4):
        texts = ["red"] * 6 + ["blue"] * 3 + ["green"]
        answers: Any = [{"answer": text, "answer_id": k + 1} for k, text in enumerate(texts)]
        rows.append(
            {
                "question_id": 100 + i,
                "question": f"what is on the Sign {i}?",
                "answers": answers if split == "validation" and not more else texts,
                "image": color(i),
                **more,
            }
        )
    return parquet(folder, split, rows)


def vqav2(folder: Path) -> Path:
    return vqa(folder, "validation")


def vizwiz(folder: Path) -> Path:
    return vqa(folder, "val")


def textvqa(folder: Path) -> Path:
    return vqa(folder, "validation", ocr_tokens=["STOP", "40"])


def scienceqa(folder: Path) -> Path:
    rows = [
        {
            "question": f"Which is {i}?",
            "choices": ["ice", "fire", "rock"][: 2 + i % 2],
            "answer": i % 2,
            "hint": "Water freezes." if i % 2 else "",
            "image": color(i),
        }
        for i in range(4)
    ]
    return parquet(folder / "ScienceQA-IMG", "test", rows)


def mme(folder: Path) -> Path:
    """One image in each category; the two questions of an image far apart."""
    rows = []
    for answer in ("Yes", "No"):
        for number, category in enumerate((*_PERCEPTION, *_COGNITION)):
            question = f"Is this {category}{'' if answer == 'Yes' else ', or not'}? Please answer yes or no."
            row = {"question_id": f"{category}/1.png", "question": question, "answer": answer}
            rows.append({**row, "category": category, "image": color(number)})
    return parquet(folder, "test", rows)


def mmbench(folder: Path, config: str = "en") -> Path:
    """Two questions with two and three options, each with all rotations, rotations last."""
    asked = [(7, ["cat", "dog"], "A", "hint one"), (9, ["up", "down", "left"], "C", "nan")]
    rows = []
    for turn in range(3):
        for index, options, answer, hint in asked:
            if turn < len(options):
                turned = options[turn:] + options[:turn]
                right = turned.index(options["ABC".index(answer)])
                cells = dict(zip("ABCD", turned + ["nan"] * 4, strict=False))
                row = {"index": index + turn * 1_000_000, "question": f"What is {index}?", "hint": hint, **cells}
                kind = {"answer": "ABC"[right], "category": "naming", "L2-category": f"coarse {index}"}
                rows.append({**row, **kind, "image": color(index)})
    return parquet(folder / config, "dev", rows)


def mmbench_cn(folder: Path) -> Path:
    return mmbench(folder, "cn")


def seed(folder: Path) -> Path:
    """Three rows on images, one on a video, whose frames are a list."""
    rows = []
    for i, kind in enumerate(("image", "video", "image", "image")):
        choices = {f"choice_{letter}": f"{letter}{i}" for letter in "abcd"}
        row = {"question_id": str(i), "question": f"What is {i}?", **choices, "answer": "ABCD"[i], "data_type": kind}
        rows.append({**row, "image": [color(i)] * (3 if kind == "video" else 1)})
    return parquet(folder, "test", rows)


def ocrbench(folder: Path) -> Path:
    """Four of the ten kinds of questions, two of them about one picture; one answer is a text, as local files may have it."""
    asked = [
        ("IIIT5K", "Regular Text Recognition", ["Stop", "halt"]),
        ("CUTE80", "Irregular Text Recognition", ["ＡＢ\u3000１"]),
        ("FUNSD", "Key Information Extraction", ["$ 40.00", "40"]),
        ("HME100k", "Handwritten Mathematical Expression Recognition", ["x ^ { 2 } + Y"]),
    ]
    rows = [
        {"dataset": name, "question": f" what is written {i}? ", "question_type": kind, "answer": answer}
        for i, (name, kind, answer) in enumerate(asked)
    ]
    return parquet(folder, "test", [{**row, "image": color(i // 2)} for i, row in enumerate(rows)])


def chartqa(folder: Path) -> Path:
    """Two questions by people and two made by machines, one of each about a chart."""
    answers = ["25", "Yes", "12.5%", "0"]
    rows = [
        {"type": ("human_test", "augmented_test")[i % 2], "question": f"How many are {i}?", "answer": answer}
        for i, answer in enumerate(answers)
    ]
    return parquet(folder, "test", [{**row, "image": color(i // 2)} for i, row in enumerate(rows)])


def docvqa(folder: Path) -> Path:
    """Three questions on two pages, with one or two right answers."""
    rows = [
        {"questionId": str(70 + i), "question": f"What is in line {i}?", "answers": answers, "image": color(i // 2)}
        for i, answers in enumerate((["March 1983", "mar. 1983"], ["$5"], ["Dr. J. A. Smith"]))
    ]
    return parquet(folder / "DocVQA", "validation", rows)


def ai2d(folder: Path) -> Path:
    """Three questions on two diagrams; right answers are places in the list, as texts."""
    options = [["sun", "moon"], ["frog", "A. toad", "eft"], ["1", "2", "3", "4"]]
    rows = [
        {"question": f"Which is {i}?", "options": some, "answer": str(i % 2), "image": color(i // 2)}
        for i, some in enumerate(options)
    ]
    return parquet(folder, "test", rows)


def mmstar(folder: Path) -> Path:
    """Two subjects of one area, of one and three questions, and one of another; one names yes or no."""
    subjects = [("math", "geometry"), *[("math", "statistical reasoning")] * 3, ("coarse perception", "image emotion")]
    rows = [
        {
            "index": i,
            "question": f"What is {i}? Please answer yes or no.\nOptions: A: a{i}, B: b{i}, C: c{i}, D: d{i}",
            "answer": "ABCDA"[i],
            "category": category,
            "l2_category": subject,
            "image": color(i),
        }
        for i, (category, subject) in enumerate(subjects)
    ]
    return parquet(folder, "val", rows)


def video(folder: Path) -> Path:
    """test_q.json and test_a.json, the answers in another order; a folder of frames and a GIF."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = [
        {"question_id": f"q{i}", "video_name": ("frames", "moving")[i % 2], "question": f"what happens {i}?"}
        for i in range(4)
    ]
    answers = [{"question_id": f"q{i}", "answer": f"answer {i}", "type": 1} for i in (3, 1, 0, 2)]
    (folder / "test_q.json").write_text(json.dumps(questions))
    (folder / "test_a.json").write_text(json.dumps(answers))
    frames = folder / "videos" / "frames"
    frames.mkdir(parents=True)
    for i in range(20):
        grey(i).save(frames / f"{i:04d}.png")
    first, *others = [grey(i) for i in range(10)]
    first.save(folder / "videos" / "moving.gif", save_all=True, append_images=others)
    return folder


def grey(i: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (10 * i, 10 * i, 10 * i))


MAKERS: dict[str, Callable[[Path], Path]] = {
    "pope": pope,
    "gqa": gqa,
    "vqav2": vqav2,
    "vizwiz": vizwiz,
    "textvqa": textvqa,
    "scienceqa": scienceqa,
    "mme": mme,
    "mmbench": mmbench,
    "mmbench_cn": mmbench_cn,
    "seed": seed,
    "ocrbench": ocrbench,
    "chartqa": chartqa,
    "docvqa": docvqa,
    "ai2d": ai2d,
    "mmstar": mmstar,
}
VIDEOS = ("msvd", "msrvtt", "tgif")
