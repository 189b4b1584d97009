"""What the commands of all cases begin with: small, on the CPU, into `out`."""

TRAIN = """backbone.path=tiny logger=csv callbacks.progress=false trainer.accelerator=cpu trainer.precision=32-true
trainer.log_every_n_steps=1 trainer.max_steps=1 data.images_per_batch=1 data.questions_per_image=2 data.workers=0 prune_ratio=0.2 grad_tokens_per_image=8
benchmark.limit=2 benchmark.num_examples=0 benchmark.baselines_to_run=[] publish_export=false hydra.run.dir=out""".split()
EVAL = """backbone.path=tiny device=cpu hydra.run.dir=out benchmark.limit=2 benchmark.batch_size=2 benchmark.num_examples=0
benchmark.baselines_to_run=[]""".split()
ASK = ["backbone.path=tiny", "device=cpu", "hydra.run.dir=out"]
