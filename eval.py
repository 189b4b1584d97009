"""Evaluates an exported plan, a pruner's config or the unpruned model; conf/eval.yaml says what can be asked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate

import learnpruner
from learnpruner.ask import ask
from learnpruner.backbones import Backbone, load_backbone
from learnpruner.baselines import baselines, build
from learnpruner.config import EvalConfig, never_peers, only_peers
from learnpruner.entry import program
from learnpruner.peers.task import Peers
from learnpruner.ranks import own_device

CONF = Path(__file__).parent / "conf"
SHIPPED = "checkpoints/nano-r0.055"


def chosen(config: EvalConfig, backbone: Backbone) -> tuple[learnpruner.Plan | None, str | None]:
    """The plan, None for the unpruned model, and where it comes from."""
    if config.pruner is not None:
        return build(config.pruner, backbone, config.seed), str(HydraConfig.get().runtime.choices["pruner"])
    source = config.plan or SHIPPED
    if source == "none":
        return None, None
    plan = learnpruner.load(source, config.prune_ratio)
    return plan.prepare(backbone.adapter).to(backbone.model.device), source


def compare(config: EvalConfig, task: Peers, backbone: Backbone, folder: Path) -> tuple[Path, str]:
    """Every method of conf/pruner at every budget; an export given as plan= takes part under its folder's name."""
    only_peers(config)
    exports = {Path(config.plan).name: config.plan} if config.plan not in (None, "none") else {}
    return task.run(backbone, task.field(CONF / "pruner", config.seed, exports), config.prune_ratios, folder)


@program(CONF, "eval")
def main(config: EvalConfig, folder: Path) -> None:
    device = config.device if config.device != "auto" else own_device()
    backbone = load_backbone(device=device, **asdict(config.backbone))
    task = instantiate(config.benchmark, _convert_="all")
    if isinstance(task, Peers) and config.image is None:
        path, text = compare(config, task, backbone, folder)
        print(f"\n{text}\nresults: {path}")
        return
    never_peers(config)
    plan, source = chosen(config, backbone)
    print((plan or learnpruner.Plan()).describe(backbone.adapter.tokens, backbone.adapter.layers))
    if config.image is not None and config.question is not None:
        assert plan is not None  # EvalConfig refuses plan=none with a picture
        path, text = ask(backbone, plan, config.image, config.question, folder, source)
    else:
        names = {} if plan is None else task.baselines
        ratio = 1.0 if plan is None else plan.prune_ratio
        others = baselines(CONF / "pruner", names, ratio, backbone, config.seed)
        path, text = task.run(backbone, plan, folder, source, others, label=Path(source or "unpruned").name)
    if text:  # of several processes one speaks
        print(f"\n{text}\nresults: {path}")


if __name__ == "__main__":
    main()
