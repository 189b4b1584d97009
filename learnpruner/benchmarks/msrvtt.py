"""MSRVTT-QA: open questions about clips of many kinds. https://doi.org/10.1145/3123266.3123427"""

from __future__ import annotations

from learnpruner.benchmarks.video_qa import VideoQa


class Msrvtt(VideoQa):
    """Rows name their video `video_name`, or number it `video_id` as the original annotations do."""

    name, title = "msrvtt", "MSRVTT"
    video_columns = {"video_name": "{}", "video_id": "video{}"}  # noqa: RUF012
