"""bfloat16 and float16, sdpa and eager: pruning loses no more precision than the model itself does."""

from __future__ import annotations

from plans import plan

from learnpruner.engine.kv_lengths import check_prefill_lengths
from on_gpu.report import Report, must
from on_gpu.twins import Twin, apart, same, saved

COMMON = 0.8  # least share of kept tokens in common with fp32: half precision turns near ties around
FACTOR = 4.0  # pruned logits may be so many times as far from fp32 as unpruned ones, where the same tokens are kept
FLOOR = 0.02


def precision(report: Report, device: str, quick: bool) -> None:
    for name in (
        ("llava", "qwen2_5_vl") if quick else ("llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen3_vl")
    ):
        folder = saved(name)
        exact = Twin(folder, name, "image", device)
        batch = exact.rows()
        where, whole = exact.text(batch), exact.logits(batch)[0]
        pruned, known = exact.logits(batch, plan("two", 0.5))
        for dtype in ("bfloat16", "float16"):
            for attention in ("sdpa", "eager"):
                with report.case(f"{name}: {dtype}, {attention}") as found:
                    twin = Twin(folder, name, "image", device, dtype=dtype, attn_implementation=attention)
                    rows = twin.rows()
                    found["unpruned_apart"] = apart(twin.logits(rows)[0], whole, where)
                    logits, record = twin.logits(rows, plan("two", 0.5))
                    found["apart"] = apart(logits, pruned, where)
                    found["kept_in_common"] = same(record.kept, known.kept)
                    masked, again = twin.logits(rows, plan("two", 0.5), "masked")
                    found["masked_apart"] = apart(masked, logits, where)
                    found["masked_kept_in_common"] = same(again.kept, record.kept)
                    _, after = twin.generate(rows, plan("two", 0.5))
                    check_prefill_lengths(after)
                    kept_all, _ = twin.logits(rows, plan("two", 1.0))
                    found["keep_all_apart"] = apart(kept_all, twin.logits(rows)[0], where)
                    must(found["keep_all_apart"] <= found["unpruned_apart"], "keep all is further off than rounding")
                    must(found["kept_in_common"] >= COMMON, "too few kept tokens are those of fp32")
                    most = max(FLOOR, FACTOR * found["unpruned_apart"])
                    alike = found["kept_in_common"] == 1 and found["masked_kept_in_common"] == 1
                    must(not alike or found["apart"] <= most, f"more than {most:.2g} from fp32")
                    must(not alike or found["masked_apart"] <= most, f"dropping is more than {most:.2g} from masking")
