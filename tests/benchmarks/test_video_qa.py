"""Video questions: frames spread over the video, answers joined by id, exact match or a judge."""

import io
import json
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from learnpruner.benchmarks.llm_judge import ChatJudge
from learnpruner.benchmarks.msrvtt import Msrvtt
from learnpruner.benchmarks.msvd import Msvd
from learnpruner.benchmarks.tgif import Tgif
from learnpruner.benchmarks.video import VideoClip, find_video, read_frames, uniform_frame_indices, video_inputs
from tests.tiny_benchmarks import grey, video


@pytest.fixture
def folder(tmp_path):
    return video(tmp_path / "data")


@pytest.mark.parametrize(
    ("total", "count", "indices"),
    [(8, 8, list(range(8))), (20, 4, [0, 6, 12, 19]), (3, 5, [0, 0, 1, 1, 2]), (1, 3, [0, 0, 0]), (9, 1, [0])],
)
def test_frames_are_spread_from_the_first_to_the_last(total, count, indices):
    assert uniform_frame_indices(total, count) == indices


def values(found):
    return [np.asarray(frame)[0, 0, 0] / 10 for frame in found]


def test_frames_of_a_folder_and_of_a_gif(folder):
    np.testing.assert_allclose(values(read_frames(folder / "videos" / "frames", 4)), [0, 6, 12, 19], atol=0.4)
    np.testing.assert_allclose(values(read_frames(folder / "videos" / "moving.gif", 4)), [0, 3, 6, 9], atol=0.4)


def test_frames_know_when_they_were_shown(folder):
    """Twenty pictures at transformers' 24 a second; a GIF of ten frames, a tenth of a second each."""
    assert read_frames(folder / "videos" / "frames", 4).metadata == {
        "total_num_frames": 20, "fps": 24.0, "frames_indices": [0, 6, 12, 19]
    }  # fmt: skip
    moving = Image.open(folder / "videos" / "moving.gif")
    moving.save(folder / "slow.gif", save_all=True, duration=100)
    assert read_frames(folder / "slow.gif", 4).metadata == {
        "total_num_frames": 10, "fps": 10.0, "frames_indices": [0, 3, 6, 9]
    }  # fmt: skip


def test_processors_get_all_frames_that_were_chosen():
    clip = VideoClip([grey(0), grey(1)], [3, 7], 8, 4.0)
    inputs = video_inputs([clip])
    assert inputs["videos"] == [clip] and inputs["do_sample_frames"] is False
    assert inputs["video_metadata"] == [{"total_num_frames": 8, "fps": 4.0, "frames_indices": [3, 7]}]
    assert "video_metadata" not in video_inputs([[grey(0)]])


def write_video(path, count, rate=5, codec="mpeg4"):
    """Grey frames that grow brighter by ten."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width = stream.height = 64
        for i in range(count):
            frame = av.VideoFrame.from_image(grey(i).resize((64, 64)))
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("ending", [".mp4", ".avi", ".mkv", ".webm"])
@pytest.mark.parametrize(("total", "count", "taken"), [(20, 4, [0, 6, 12, 19]), (3, 5, [0, 0, 1, 1, 2])])
def test_frames_of_a_file(tmp_path, ending, total, count, taken):
    """Files of the last two kinds do not say how many frames they have."""
    codec = "libvpx" if ending == ".webm" else "mpeg4"
    found = read_frames(write_video(tmp_path / f"x{ending}", total, codec=codec), count)
    np.testing.assert_allclose(values(found), taken, atol=0.4)
    assert found.metadata == {"total_num_frames": total, "fps": 5.0, "frames_indices": taken}


def test_a_header_that_promises_more_frames_than_there_are(tmp_path, monkeypatch):
    av = pytest.importorskip("av")
    path, original = write_video(tmp_path / "x.mp4", 6), av.open

    class Promising:
        """A file of six frames that says it has ten."""

        def __init__(self, *arguments):
            self.file = original(*arguments)
            real = self.file.streams.video[0]
            self.stream = SimpleNamespace(frames=10, average_rate=real.average_rate)
            self.streams, self.seek = SimpleNamespace(video=[self.stream]), self.file.seek

        def decode(self, stream):
            return self.file.decode(video=0)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(av, "open", Promising)
    np.testing.assert_allclose(values(read_frames(path, 3)), [0, 2, 5], atol=0.4)


def test_a_file_that_is_no_video_is_refused_in_a_sentence(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_frames(tmp_path / "x.mp4", 4)


def test_without_a_reader_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="pip install av"):
        read_frames(tmp_path / "x.mp4", 4)


def test_videos_are_found_by_name(folder):
    videos = folder / "videos"
    assert find_video(videos, "moving") == videos / "moving.gif"
    assert find_video(videos, "frames") == videos / "frames"
    with pytest.raises(ValueError, match="No video 'lost'"):
        find_video(videos, "lost")
    (videos / "away").symlink_to(videos.parent.parent)
    for name in ("../videos/../..", "away"):
        with pytest.raises(ValueError, match=r"leads out of .* outside=true"):
            find_video(videos, name)
        assert find_video(videos, name, outside=True) == videos / name
    (videos / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no frames"):
        read_frames(videos / "empty", 2)


def test_questions_meet_their_answers_and_videos(folder):
    benchmark = Msvd(str(folder), frames=3)
    assert [benchmark[i].answer for i in range(4)] == [f"answer {i}" for i in range(4)]
    assert [benchmark[i].scene for i in range(4)] == ["frames", "moving"] * 2
    assert len(benchmark[0].image) == 3
    assert [benchmark.score(said, benchmark[1]) for said in ("Answer one.", "answer 2")] == [1, 0]
    assert Msvd(str(folder), short=False)[0].question == "what happens 0?"


def test_the_first_so_many_questions(folder):
    assert [len(Msvd(str(folder), first=first)) for first in (2, 1000, None)] == [2, 4, 4]


@pytest.mark.parametrize(
    ("kind", "column", "file"), [(Msrvtt, "video_id", "video7"), (Msvd, "video_id", "vid7"), (Tgif, "gif_name", "7")]
)
def test_the_original_annotations_name_videos_in_their_own_way(tmp_path, kind, column, file):
    frame = tmp_path / "videos" / file
    frame.mkdir(parents=True)
    video(tmp_path / "other")
    (tmp_path / "other" / "videos" / "frames" / "0000.png").rename(frame / "0.png")
    (tmp_path / "qa.json").write_text(json.dumps([{"question_id": 1, column: "7", "question": "what?", "answer": "a"}]))
    assert kind(str(tmp_path))[0].scene == file


def test_what_is_missing_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match=r"benchmark\.datasets\.tgif\.source must be given"):
        Tgif(None)
    (folder / "test_a.json").write_text('[{"question_id": "q0", "answer": "a"}]')
    with pytest.raises(ValueError, match=r"Question q1 .* has no answer"):
        Msvd(str(folder))[1]
    nameless = tmp_path / "qa.json"
    nameless.write_text('[{"question_id": 1, "question": "what?", "answer": "a"}]')
    with pytest.raises(ValueError, match="'video_name' or 'video_id'"):
        Msvd(str(nameless))


@pytest.fixture
def server():
    """A chat API that says yes to the right answer "answer 1"."""
    asked = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            text = asked[-1][1]["messages"][0]["content"]
            said = "Yes, it does." if "Right answer: answer 1" in text else "No"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", asked
    http.shutdown()


def test_a_judge_gives_the_credit(folder, server):
    url, asked = server
    benchmark = Msvd(str(folder), judge=ChatJudge(url, "judge-1"))
    assert [benchmark.score("something", benchmark[i]) for i in range(2)] == [0, 1]
    path, body = asked[0]
    assert (path, body["model"], body["temperature"]) == ("/v1/chat/completions", "judge-1", 0)
    text = body["messages"][0]["content"]
    assert "Question: what happens 0?\nRight answer: answer 0\nAnswer of the model: something" in text
    assert "judge-1" in benchmark.arguments()["judge"]


def test_a_judge_is_asked_with_its_own_key_and_patience(monkeypatch):
    seen = {}

    def answer(request, timeout):
        seen.update(key=request.get_header("Authorization"), timeout=timeout)
        return io.BytesIO(json.dumps({"choices": [{"message": {"content": "yes"}}]}).encode())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setenv("JUDGE_KEY", "abc")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    assert ChatJudge("http://judge/v1/", "judge-1", key="JUDGE_KEY", timeout=3)("q", "a", "p") == 1
    assert seen == {"key": "Bearer abc", "timeout": 3}


def test_a_judge_that_is_away_stops_the_run():
    with pytest.raises(ValueError, match="gives no verdict"):
        ChatJudge("http://127.0.0.1:9", "judge-1", timeout=2)("q", "a", "p")
