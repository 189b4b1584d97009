"""A model that serves under a plan: several threads, flat memory, weights that accelerate places, static caches, compiled graphs."""

from __future__ import annotations

import gc
import threading
from typing import Any

import torch
from plans import plan

from on_gpu.report import Report, must
from on_gpu.twins import Twin, apart, saved

THREADS, ASKED = 4, 8


def threads(report: Report, device: str, quick: bool) -> None:
    """Four threads on one model answer as one thread does, one prompt after the other."""
    twin = Twin(saved("llava"), "llava", "image", device)
    prompts = [twin.rows(((1 + number % 2, 3 + number),)) for number in range(THREADS)]
    for name, pruned in (("unpruned", None), ("a plan", plan("three", 0.5).to(twin.model.device))):
        with report.case(f"{THREADS} threads, {name}") as found:
            if pruned is not None:
                pruned.attach(twin.model)
            try:
                alone = [answer(twin, prompt) for prompt in prompts]
                found["wrong"] = at_once(twin, prompts, alone, 2 if quick else ASKED)
            finally:
                if pruned is not None:
                    pruned.detach(twin.model)
            must(not found["wrong"], f"{len(found['wrong'])} of {THREADS * ASKED} answers are wrong or raised")


def answer(twin: Twin, prompt: dict[str, Any]) -> list[int]:
    return twin.model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :].tolist()


def at_once(twin: Twin, prompts: list[Any], alone: list[list[int]], times: int) -> list[str]:
    """What went wrong, each thread asking its prompt so many times."""
    wrong: list[str] = []
    start = threading.Barrier(len(prompts))

    def ask(number: int) -> None:
        start.wait()
        for _ in range(times):
            try:
                if (found := answer(twin, prompts[number])) != alone[number]:
                    wrong.append(f"{number}: {found} in place of {alone[number]}")
            except Exception as error:
                wrong.append(f"{number}: {type(error).__name__}: {error}"[:300])

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for one in asking:
        one.start()
    for one in asking:
        one.join()
    return wrong


def memory(report: Report, device: str, quick: bool) -> None:
    """Attaching, generating and detaching again and again holds no more than before, and a plan never needs more than none."""
    twin = Twin(saved("llava"), "llava", "image", device)
    batch, pruned = twin.rows(), plan("three", 0.25).to(twin.model.device)
    with report.case("flat over attachments") as found:
        held = []
        for _ in range(4 if quick else 30):
            twin.generate(batch, pruned)
            gc.collect()
            held.append(torch.cuda.memory_allocated() if torch.cuda.is_available() else 0)
        found |= {"bytes_after_3": held[2], "bytes_at_end": held[-1]}
        must(held[-1] <= held[2], "memory grows with attachments")
    with report.case("peak of a prefill") as found:
        for name, one in (("unpruned", None), ("pruned", pruned)):
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            twin.logits(batch, one)
            found[name] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0


def placement(report: Report, device: str, quick: bool) -> None:
    """device_map="auto", and a model moved to the device after its plan was attached."""
    folder = saved("llava")
    here = Twin(folder, "llava", "image", device)
    expected = here.generate(here.rows(), plan("two", 0.5).to(here.model.device))[0]
    with report.case("device_map=auto") as found:
        twin = Twin(folder, "llava", device_map="auto")
        found["device"] = str(twin.model.device)
        tokens, _ = twin.generate(twin.rows(), plan("two", 0.5).to(twin.model.device))
        must(torch.equal(tokens.cpu(), expected.cpu()), "answers differ")
    with report.case("moved after attaching"):
        twin, pruned = Twin(folder, "llava"), plan("two", 0.5)
        pruned.attach(twin.model)
        twin.model.to(device)
        pruned.to(device)
        batch = twin.rows()
        found_ids = twin.model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :]
        pruned.detach(twin.model)
        must(torch.equal(found_ids.cpu(), expected.cpu()), "answers differ")


def static(report: Report, device: str, quick: bool) -> None:
    """A static cache, whose decoding Hugging Face compiles by itself on a GPU, and an offloaded one."""
    twin = Twin(saved("llava"), "llava", "image", device)
    batch = twin.rows()
    for name, pruned in (("unpruned", None), ("a plan", plan("two", 0.5).to(twin.model.device))):
        expected, _ = twin.generate(batch, pruned, max_new_tokens=8)
        for kind in ("static",) if quick else ("static", "offloaded", "dynamic"):
            with report.case(f"{kind}, {name}") as found:
                tokens, _ = twin.generate(batch, pruned, max_new_tokens=8, cache_implementation=kind)
                found["alike"] = bool(torch.equal(tokens, expected))
                must(found["alike"], f"{tokens.tolist()} in place of {expected.tolist()}")


def compiled(report: Report, device: str, quick: bool) -> None:
    """torch.compile after a plan was attached gives what the same calls give uncompiled."""
    twin = Twin(saved("llava"), "llava", "image", device)
    batch, pruned = twin.rows(), plan("two", 0.5).to(twin.model.device)
    expected, _ = twin.logits(batch, pruned)
    with report.case("compiled after attaching") as found, torch.no_grad(), pruned.on(twin.model):
        logits = twin.model(**batch).logits if quick else torch.compile(twin.model)(**batch).logits
        found["apart"] = apart(logits, expected, twin.text(batch))
        must(found["apart"] <= 1e-3, "logits differ")
    with report.case("uncompiled again") as found:
        found["apart"] = apart(twin.logits(batch, pruned)[0], expected, twin.text(batch))
        must(found["apart"] <= 1e-5, "logits differ")
