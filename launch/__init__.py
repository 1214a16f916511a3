"""The commands that a person types (`cli`), and how ranks start.

Commands of one file: `train`, `tokenize`, `generate`, `plan`, `convert`, `schedules`, `doctor`; of a folder: `compare`,
`evaluate`, `probe` (`doctor --links`). Their input: `compose` (Hydra's overrides, for training), `words` (`key=value`,
for the rest), `parser` (flags), `failure` (what a user is told).

A training run: `run_folder` freezes the settings; `launchers` and `workers` start ranks on this machine, through
`agent`; `joined` is for ranks that torchrun has started, `several`, `meeting` and `place` for several hosts, `slurm`
for its jobs, `multirun` for many runs. A rank is `worker`, which does `job`. `dry_run` and `memory_hint` say what a run
will take.

A rank of any command: `rank` (mistakes that all must know of), `device`, `cores`, `about` (what was measured on what).
Beside a command: `generate_job`, `state_routes` (`schedules route`).
"""
