"""What run this is: its texts and models, how far it has come, the machine, the costs."""

from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any

from experiments import paper
from experiments.report.recorded import Run
from experiments.report.table import Table, number, percent
from experiments.rows import Convergence, Sharpness


def facts(run: Run) -> list[tuple[str, str]]:
    """Names and what is recorded of them; what is not is left out."""
    config, provenance = run.config, run.provenance
    found: list[tuple[str, str]] = [("Preset", str(config.get("preset", "")))]
    found += [("Progress", _progress(run))]
    for task, about in provenance.get("tasks", {}).items():
        found.append((paper.TASKS.get(task, task), _task_fact(about)))
    seeds = sorted({row.seed for row in run.rows})
    found.append(("Seeds" if len(seeds) > 1 else "Seed", ", ".join(map(str, seeds))))
    found.append(("Device", "; ".join(_environments(run, "device"))))
    found.append(("Precision", "; ".join(_environments(run, "precision"))))
    ours = {"sharpjax": provenance["sharpjax"]} if "sharpjax" in provenance else {}
    software = lambda found: ", ".join(f"{k} {v}" for k, v in (ours | found).items())  # noqa: E731
    found.append(("Versions", "; ".join(_environments(run, "versions", software))))
    commits = provenance.get("commits", [str(provenance.get("commit", ""))])
    found.append(("Commits" if len(commits) > 1 else "Commit", ", ".join(commits)))
    walls = wall_seconds(run)
    times = "; ".join(f"{stage} {duration(seconds)}" for stage, seconds in walls.items())
    together = f"{duration(sum(walls.values()))} together: " if len(walls) > 1 else ""
    found.append(("Wall time", together + times))
    found.append(("Peak memory", _peak_memory(run)))
    return [(name, said) for name, said in found if said]


def _environments(run: Run, name: str, said: Callable[[Any], str] = str) -> list[str]:
    """One fact of the environments that wrote to the run, in order, each said once."""
    made = run.provenance.get("environments", [run.provenance])
    return list(dict.fromkeys(said(e[name]) for e in made if e.get(name)))


def _task_fact(about: dict[str, Any]) -> str:
    """One sentence: text and checksum, tokenizer, model, and where its training starts."""
    said = [str(public(about.get("corpus", "")))]
    if "checksum" in about:
        said.append(f"(SHA-256 {about['checksum']})")
    parts = [" ".join(said).strip()]
    if "examples" in about:
        parts.append(f"{about['examples']:,} examples")
    if "tokenizer" in about:
        parts.append(f"tokenizer {public(about['tokenizer'])}")
    if "model" in about:
        size = f", {about['parameters']:,} parameters" if "parameters" in about else ""
        parts.append(f"model {public(about['model'])}{size}")
    if about.get("padding", "masked") != "masked":
        shares = (percent(about[k]) for k in ("source_padding", "target_padding"))
        of = "{} of the sources, {} of the targets that count".format(*shares)
        parts.append(f"padding {about['padding']}: {of}")
    if "warmup_rows" in about:
        text = f"{about['warmup_rows']:,} rows of {public(about['warmup_corpus'])}"
        parts.append(f"warm-up on {text} (SHA-256 {about['warmup_checksum']})")
    if "start" in about:
        loss = about.get("start_loss")
        at = f", at loss {number(loss)}" if isinstance(loss, int | float) else ""
        parts.append(f"{public(about['start'])}{at}")
    return "; ".join(part for part in parts if part)


def _progress(run: Run) -> str:
    """How much of what the configuration asks for is recorded, column by column."""
    config = run.config
    epochs, batches = config.get("measured_epochs"), config.get("measured_batches")
    if isinstance(batches, list | tuple):
        batches = len(batches)
    planned = len(epochs) * batches * config.get("replicates", 1) if epochs and batches else None
    points: dict[tuple, set] = {column: set() for column in run.columns()}
    for r in run[Sharpness]:
        points[r.task, r.trajectory].add((r.seed, r.epoch, r.batch))
    missing, done = [], []
    for column, seen in points.items():
        whole = planned is None or len(seen) >= planned
        of = f" of {planned}" if planned else ""
        (done if whole else missing).append(
            f"{paper.column_name(column)}, {len(seen)}{of} batches measured"
        )
    total = config.get("epochs")
    trained = run.tasks(Convergence)
    for task in trained:
        ends: dict[str, int] = {}
        for row in run[Convergence]:
            if row.task == task:
                end = total if total and row.diverged else row.epoch
                ends[row.algorithm] = max(end, ends.get(row.algorithm, 0))
        count = sum(not total or end >= total for end in ends.values())
        (done if count == len(run.algorithms) else missing).append(
            f"{paper.TASKS[task]}, {count} of {len(run.algorithms)} convergence runs"
        )
    if missing:
        return f"incomplete: {'; '.join(missing)}" + f". Complete: {'; '.join(done)}" * bool(done)
    runs = len(trained) * len(run.algorithms)
    batches = sum(map(len, points.values()))
    return f"complete: {batches} measured batches and {runs} convergence runs"


def cost_table(title: str, runs: Sequence[tuple[str, Run]]) -> Table:
    """The wall time and the memory of each run, of which the name is given."""
    rows = [
        (name, duration(sum(wall_seconds(run).values())), _peak_memory(run) or "not recorded")
        for name, run in runs
    ]
    machines = dict.fromkeys(
        device for _, run in runs for device in _environments(run, "device") or ["unknown"]
    )
    caption = f"Machine: {'; '.join(machines)}. Wall time is of every attempt together."
    return Table(title, ("", "wall time", "peak memory"), rows, caption)


def machine_table(runs: Sequence[tuple[str, Run]]) -> Table:
    """The machine, the wall time and the memory of each run, of which the name is given."""
    costs = cost_table("", runs)
    on = ("; ".join(_environments(run, "device")) or "unknown" for _, run in runs)
    rows = [(name, where, *rest) for (name, *rest), where in zip(costs.rows, on, strict=True)]
    caption = "Wall time is of every attempt together, and of processes side by side added up."
    return Table("", ("", "machine", *costs.header[1:]), rows, caption)


def wall_seconds(run: Run) -> dict[str, float]:
    """Of each stage, in all attempts together."""
    return run.provenance.get("wall_seconds", {})


def _peak_memory(run: Run) -> str:
    memory = run.provenance.get("peak_memory_mib")
    return f"{memory / 1024:.1f} GiB" if memory else ""


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def public(value: Any) -> Any:
    """The value with every file path cut to its last name: a report says what, not where."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    words = []
    for word in value.split(" "):
        is_path = word.startswith(("/", "~", "./", "../")) or word.count("/") > 1
        words.append(PurePath(word).name if is_path else word)
    return " ".join(words)
