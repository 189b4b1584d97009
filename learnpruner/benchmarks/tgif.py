"""TGIF-QA, the FrameQA part: open questions about animated GIFs. https://arxiv.org/abs/1704.04497"""

from __future__ import annotations

from learnpruner.benchmarks.video_qa import VideoQa


class Tgif(VideoQa):
    """Rows name their video `video_name`, or `gif_name` as the original annotations do."""

    name, title = "tgif", "TGIF"
    video_columns = {"video_name": "{}", "gif_name": "{}"}  # noqa: RUF012
