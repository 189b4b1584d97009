"""Settings of train.py and eval.py, and arguments of the smaller programs."""

from __future__ import annotations

from collections.abc import Iterator

from bad.case import Case, Outcome, Play, Stage, refused
from bad.commands import EVAL, TRAIN

OF_TRAIN = {  # settings: what the sentence says
    "prune_ration=0.1": "did you mean prune_ratio?",
    "+prune_ration=0.1": "did you mean prune_ratio?",
    "+trainer.max_step=1": "did you mean trainer.max_steps?",
    "data.json=x": "data.json is no setting",
    "prune_ratio=abc": "prune_ratio is 'abc'; it must be a number",
    "prune_ratio=0": "above 0 and at most 1",
    "prune_ratio=-0.1": "above 0 and at most 1",
    "prune_ratio=1.5": "above 0 and at most 1",
    "prune_ratio=nan": "above 0 and at most 1",
    "prune_ratio=inf": "above 0 and at most 1",
    "prune_ratio=0.001": "prune_ratio",
    "prune_ratio=[0.1]": "prune_ratio",
    "prune_ratio=0.1,0.2": "prune_ratio",
    "data=nothing": "choose one of",
    "pruner=nothing": "choose one of",
    "backbone=nothing": "choose one of",
    "optimizer=rmsprop": "choose one of",
    "experiment=nothing": "choose one of",
    "data=llava_json": "data.json must be given",
    "data=llava_665k": "data.root must be given",
    "data=llava_onevision_data": "data.config must be given",
    "data.images_per_batch=0": "must be 1 or more",
    "data.images_per_batch=-4": "must be 1 or more",
    "data.images_per_batch=1.5": "data.images_per_batch is 1.5; it must be a whole number",
    "data.questions_per_image=0": "must be 1 or more",
    "data.questions_per_image=10000000": "must be 1000 or less",
    "data.workers=-1": "must be 0 or more",
    "data.repeat=-1": "must be 0 or more",
    "data.split=nothing": "split is 'nothing'",
    "data.image_aspect=banana": "must be one of",
    "loss.kl.weight=-1": "loss.kl.weight is -1; it must be 0 or more",
    "loss.kl.weight=0": "no term to learn from",
    "loss.kl.weight=null": "loss.kl.weight",
    "loss.kl.weight=nan": "loss.kl.weight",
    "trainer.precision=bf17": "must be one of",
    "trainer.max_steps=0": "must be 1 or more",
    "trainer.accumulate_grad_batches=0": "must be 1 or more",
    "trainer.gradient_clip_val=-1": "0 or more",
    "trainer.gradient_clip_val=inf": "finite",
    "trainer.log_every_n_steps=0": "must be 1 or more",
    "trainer.devices=[0,1]": "trainer.devices is [0, 1]",
    "trainer.devices=-1": "trainer.devices=-1",
    "trainer.accelerator=nosuch": "trainer.accelerator=nosuch",
    "trainer.strategy=nosuch": "nosuch",
    "trainer.profiler=nosuch": "must be one of",
    "scheduler.warmup=2": "scheduler.warmup is 2;",
    "scheduler.floor=-1": "scheduler.floor is -1;",
    "scheduler.warmup=nan": "scheduler.warmup is nan",
    "optimizer.lr=inf": "finite number",
    "optimizer.lr=-1": "0 or more",
    "optimizer.lr=nan": "finite number",
    "optimizer.weight_decay=-1": "0 or more",
    "optimizer=sgd optimizer.momentum=-3": "optimizer.momentum is -3;",
    "optimizer._target_=torch.optim.No": "optimizer._target_ is 'torch.optim.No'",
    "pruner.stages.0.pruner._target_=os.system": "no setting",
    "seed=-1": "0 or more",
    "seed=4294967296": "at most 4294967295",
    "seed=1.5": "seed",
    "seed=(1": "seed=(1 cannot be read",
    "seed": "seed cannot be read",
    "grad_tokens_per_image=-1": "grad_tokens_per_image is -1",
    "name=": "names the run's folder",
    "name=..": "names the run's folder",
    "name=../x": "names the run's folder",
    "name=\udcff": "is not UTF-8",
    "plan=": "plan is empty",
    "plan=none": "nothing to train",
    "plan=nowhere": "No plan at 'nowhere'",
    "plan=export pruner=random": "are both given",
    "pruner=random": "no weights to train",
    "pruner=null": "takes a name",
    "pruner=[random,cls]": "takes one",
    "~pruner": "pruner must be given",
    "~data": "data must be given",
    "~benchmark": "benchmark must be given",
    "backbone.shape.x=1": "sets a part of what is null",
    "backbone={path: tiny}": "is no name: write it into a config",
    "lr=1": "did you mean optimizer.lr or adapter.lr?",
    "max_steps=1": "did you mean trainer.max_steps?",
    "backbone.dtype=int8": "must be one of",
    "backbone.quantization=3bit": "must be one of",
    "backbone.attn_implementation=nosuch": "must be one of",
    "callbacks.checkpoint.every_n_train_steps=-1": "1 or more",
    "adapter=lora adapter.r=0": "1 or more",
    "adapter=lora adapter.alpha=0": "above 0",
    "adapter=lora adapter.dropout=1": "must be below 1",
    "adapter=lora adapter.target_modules='('": "no regular expression",
    "adapter=lora adapter.target_modules=nothing": "nothing",
    "adapter.lr=0.1": "nothing is adapted",
    "benchmark=peers": "compares many plans",
    "benchmark=heads": "run eval.py plan=none benchmark=heads",
    "benchmark.limit=0": "benchmark.limit is 0",
    "benchmark.baselines_to_run=[nothing]": "nothing",
    "hydra.run.dir=/dev/null/run": "/dev/null/run cannot be written",
    "hydra.run.dir=run": "holds config.yaml of an earlier run",
    "-m trainer.devices=2 seed=1,2": "-m with trainer.devices=2 is refused",
    "logger=wandb logger.wandb.mode=nosuch": "must be one of",
}
OF_EVAL = {
    "prune_ratio=1.5": "1.5",
    "prune_ratio=nan": "nan",
    "prune_ratio=much": "prune_ratio",
    "plan=none prune_ratio=0.1": "leave one out",
    "plan=nowhere/at/all": "nowhere/at/all",
    "plan=picture.png": "picture.png",
    "plan=/dev/null": "/dev/null",
    "plan=wider": "48",
    "plan=export pruner=random": "not both",
    "pruner=random": "prune_ratio",
    "pruner={_target_: learnpruner.plan.Plan}": "is no name: write it into a config",
    "pruner=[random,cls]": "runs one after the other",
    "backbone.path=nowhere/at/all": "nowhere/at/all",
    "device=nosuch": "device='nosuch' is refused",
    "device=meta": "holds no weights to compute with",
    "device=cuda:99": "cuda:99",
    "image_aspect=banana": "must be one of",
    "benchmark=sceens": "choose one of",
    "benchmark=[scenes,pope]": "run it by itself",
    "benchmark=pope benchmark.datasets.pope.source=nowhere.parquet": "nowhere.parquet",
    "benchmark.limit=0": "benchmark.limit is 0",
    "benchmark.limt=7": "benchmark.limt",
    "+benchmark.limt=7": "did you mean benchmark.limit?",
    "benchmark.batch_size=0": "batch_size",
    "benchmark.baselines_to_run=random": "benchmark.baselines_to_run=[random]",
    "benchmark.baselines_to_run=[fasterVLM]": "random+text",
    "benchmark.dataset.seed=-1": "seed is -1",
    "benchmark=speed plan=none": "plan=PATH",
    "benchmark=speed benchmark.clock=sun": "wall, cpu",
    "benchmark=speed benchmark.batch_sizes=2": "benchmark.batch_sizes=[1,8]",
    "benchmark=speed benchmark.batch_sizes=[largest]": "on a GPU only",
    "benchmark=speed benchmark.new_tokens=[0]": "benchmark.new_tokens is 0",
    "benchmark=kv plan=none benchmark.budgets=64": "benchmark.budgets is 64",
    "benchmark=train_step plan=none": "plan=PATH",
    "benchmark=peers prune_ratios=[]": "at least one",
    "benchmark=peers prune_ratios=[0.5,0.5]": "each budget once",
    "benchmark=peers prune_ratios=[0.5,1.5]": "1.5",
    "benchmark=peers prune_ratio=0.5": "prune_ratios=",
    "benchmark=peers benchmark.methods=[fasterVLM]": "fasterVLM",
    "benchmark=peers benchmark.positions=new": "original, compact",
    "prune_ratios=[0.5]": "prune_ratio=.",
    "~benchmark": "benchmark must be given",
    "~backbone": "backbone must be given",
    "hydra.run.dir=asked": "of an earlier run",
    "name=..": "names the run's folder",
}
OF_MODULES = {
    "learnpruner.profiling.compute_estimate --gpus 0": "give a whole number, 1 or more",
    "learnpruner.profiling.compute_estimate --mfu 2": "give a share",
    "learnpruner.profiling.compute_estimate --peak inf": "give a number above 0",
    "learnpruner.profiling.compute_estimate --backbone nowhere": "nowhere",
    "learnpruner.profiling.selection_latency nosuch": "nosuch",
    "learnpruner.profiling.selection_latency --repeats 0": "give a whole number, 1 or more",
    "learnpruner.profiling.selection_latency --clock sun": "sun",
    "learnpruner.data.scenes drawn --count -3": "give a whole number, 1 or more",
    "learnpruner.data.scenes drawn --split nothing": "nothing",
    "learnpruner.data.scenes drawn --seed x": "give a whole number, 0 or more",
    "learnpruner.comparison.compare_exports nowhere export --backbone tiny": "nowhere",
    "learnpruner.comparison.compare_exports export export --limit 0": "give a whole number, 1 or more",
    "learnpruner.nano.condition --edition 1 --backbone nowhere": "nowhere",
    "learnpruner.nano.condition --edition 3": "invalid choice: 3",
}
SHORT = ("seed=(1", "hydra.run.dir=run", "plan=wider", "device=meta")


def cases() -> Iterator[Case]:
    for given, words in OF_TRAIN.items():
        yield Case("setting", f"train.py {given}", playing("train.py", given, TRAIN, words), short=given in SHORT)
    for given, words in OF_EVAL.items():
        yield Case("setting", f"eval.py {given}", playing("eval.py", given, EVAL, words), short=given in SHORT)
    for given, words in OF_MODULES.items():
        module, *arguments = given.split()
        yield Case("setting", f"-m {given}", of_module(module, arguments, words))


def playing(program: str, given: str, common: list[str], words: str) -> Play:
    """A command line of one of the two programs."""
    arguments = [given] if "{" in given else given.split()

    def play(stage: Stage) -> Outcome:
        plain = [one for one in common if not ("benchmark=" in given and one.startswith("benchmark."))]
        bare = program == "eval.py" and not any(one.startswith(("plan=", "pruner=")) for one in arguments)
        both = [*plain, *(["plan=export"] if bare and "peers" not in given else []), *arguments]
        return refused(stage, program, *both, words=[words])

    return play


def of_module(module: str, arguments: list[str], words: str) -> Play:
    return lambda stage: refused(stage, module, *arguments, words=[words])
