"""MMBench in Chinese. https://arxiv.org/abs/2307.06281"""

from __future__ import annotations

from learnpruner.benchmarks.mmbench import Mmbench


class MmbenchCn(Mmbench):
    """Circular accuracy on dev, as in English. The closing sentence is that of LLaVA's model_vqa_mmbench.py (58.3 for LLaVA-1.5-7B)."""

    name, title = "mmbench_cn", "MMB-CN"
    ending = "\n请直接回答选项字母。"

    def __init__(
        self, source: str = "lmms-lab/MMBench", split: str = "dev", config: str | None = "cn", max_new_tokens: int = 256
    ) -> None:
        super().__init__(source, split, config, max_new_tokens)
