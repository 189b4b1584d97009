"""Settings of earlier versions stand in today's shape."""

from learnpruner.config.earlier import upgraded
from learnpruner.config.renamed import renamed_keys


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


def test_keys_that_stood_for_other_words_have_their_names_of_today():
    stored = {
        "data": {"share": 0.1, "split": "train"},
        "kv": {"every": 16, "capacity": 1.0, "budget": 64},
        "pruner": {"stages": [{"at": 0, "share": 3, "pruner": {"share": 1}}, {"at": "12/32"}]},
        "benchmark": {"ratios": [0.5], "every": 4},
    }
    assert upgraded(stored) == {
        "data": {"fraction": 0.1, "split": "train"},
        "kv_eviction": {"evict_interval": 16, "capacity_weight": 1.0, "budget": 64},
        "pruner": {"stages": [{"at": 0, "token_share": 3, "pruner": {"share": 1}}, {"at": "12/32"}]},
        "benchmark": {"prune_ratios": [0.5], "evict_interval": 4},
    }
    assert upgraded({"kv": None}) == {"kv_eviction": None}


def test_an_old_key_in_a_file_is_told_by_its_place():
    held = {"pruner": {"stages": [{"share": 3}, {"share": 1}]}, "kv": {"every": 4}}
    assert dict(renamed_keys(held)) == {
        "pruner.stages.*.share": "pruner.stages.*.token_share",
        "kv.every": "kv_eviction.evict_interval",
        "kv": "kv_eviction",
    }
    assert not list(renamed_keys(upgraded(held)))
