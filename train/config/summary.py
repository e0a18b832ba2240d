"""What follows from a configuration, as text: nothing derived is typed into a YAML file, so it is printed."""

from __future__ import annotations

from train.config.run import Run
from train.engine.mesh import describe_mesh
from train.schedule.amounts import format_tokens
from train.schedule.timeline import split_batch


def summary(run: Run) -> str:
    """The plan of a run, one fact a line."""
    timeline, seq_len = run.timeline, run.timeline.seq_len
    parallelism, at_most = run.parallelism, run.training.local_batch_size
    lines = [
        f"run            {run.run.name} in {run.run_dir}",
        f"model          {run.model.name}",
        f"mesh           {describe_mesh(parallelism)}",
        f"steps          {timeline.num_steps:,}, {timeline.num_windows * seq_len:,} tokens in windows of {seq_len:,}",
    ]
    for number, name in timeline.phase_end_steps.items():
        windows = timeline.phase_windows[[phase.name for phase in run.schedule.phases].index(name)]
        lines.append(f"phase          {name}: {format_tokens(windows * seq_len)} tokens, ends in step {number:,}")
    for number in timeline.ramp_steps:
        batch = timeline.step(number).num_windows
        accumulation, rows = split_batch(batch, num_ranks=run.world_size, at_most=at_most)
        lines.append(
            f"batch          from step {number:,}: {batch:,} sequences = {batch * seq_len:,} tokens, "
            f"{accumulation} x {rows} a rank"
        )
    if not run.data.source_names():
        phases = ", ".join(f"{phase.name}: {{NAME: 1}}" for phase in run.schedule.phases)
        lines.append("missing        data: no source is named; data.sources.NAME.KEY=... (configs/data), and what each")
        lines.append(f"               phase takes of them: 'data.mix={{{phases}}}', or data.mix=proportional")
    return "\n".join(lines)
