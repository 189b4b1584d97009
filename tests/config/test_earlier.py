"""Settings of earlier versions stand in today's shape."""

from learnpruner.config.earlier import upgraded


def test_a_benchmark_has_its_keys_of_today():
    stored = {"benchmark": {"_target_": "learnpruner.evaluation.AccuracyTask", "limit": 2, "beside": [], "looks": 0}}
    assert upgraded(stored) == {
        "benchmark": {
            "_target_": "learnpruner.evaluation.AccuracyTask",
            "limit": 2,
            "baselines_to_run": [],
            "num_examples": 0,
        }
    }


def test_one_more_export_of_conversations_stands_among_the_others():
    task = {
        "_target_": "learnpruner.kv_table.ConversationTask",
        "exports": {"a": "x"},
        "trained": None,
        "beside": ["a"],
    }
    assert upgraded({"benchmark": task})["benchmark"] == {
        "_target_": "learnpruner.kv_table.ConversationTask",
        "exports": {"a": "x"},
        "baselines_to_run": ["a"],
    }
    more = upgraded({"benchmark": {**task, "trained": "y"}})["benchmark"]
    assert more["exports"] == {"a": "x", "trained": "y"} and more["baselines_to_run"] == ["a", "trained"]
