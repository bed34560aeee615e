#!/usr/bin/env python3
"""Run a general-purpose search over gulliver's evaluator, to compare at equal numbers of samples inferred.

    python search.py SPEC.yaml --tool optuna|pymoo --samples N --seed S --out FILE.json [--gulliver PATH] [--jobs N]
    python search.py --compare OURS.json PEER.json...

The first runs NSGA-II with a population of 50 on drop and latency, both minimised, until the evaluator has inferred N samples, and writes
what it measured to FILE.json and what the evaluator says on stderr to FILE.log. The second prints a Markdown table of the hypervolume
that files reached, and after how many samples each reached 90, 95, 99 and 100 % of what the first file ended with.

- optuna: `NSGAIISampler` at its defaults, every axis a categorical parameter.
- pymoo: `NSGA2` over the options' positions as integers, with SBX and PM rounded, both with the eta of 3 that pymoo's documentation gives
  for integers: at its default of 20 rounding undoes nearly every mutation. Generations have no duplicates, as by default.

The evaluator is `gulliver bench SPEC --serve`, which answers a candidate a line. A candidate asked for again is answered from memory and
infers nothing. A rejected one infers nothing either; it counts as a drop of 1 and as its latency, or as that of the float network where
that is more, so that it is dominated. So does a failed one. One given up early (stopped) counts with its drop until then. The run ends at
the first evaluation at or past N, or after 2,000 candidates in a row that inferred nothing.

The hypervolume is that of (drop, latency) of the candidates measured or sampled, not of those stopped, against the evaluator's reference
point, as a share of the box from drop 0 and latency 0 to that point. A drop below 0 counts as 0.

Needs `pip install optuna pymoo` (tried with optuna 5.0.0 and 4.9.0, which search alike, and pymoo 0.6.2) and a built gulliver.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

POPULATION = 50
PATIENCE = 2000
SHARES = (0.90, 0.95, 0.99, 1.0)
Point = tuple[float, float]  # drop and latency


class Finished(Exception):
    """The search has had all it may infer, or finds nothing new."""


class Evaluator:
    """The child process that evaluates candidates; its first line is `about`."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
        assert self.process.stdin and self.process.stdout
        self.requests, self.answers = self.process.stdin, self.process.stdout
        self.about = self.read("axes", "float", "reference")

    def outcome(self, candidate: tuple[int, ...]) -> dict[str, Any]:
        """What becomes of a candidate, given as the position of an option for each axis."""
        try:
            print(json.dumps({"candidate": candidate}), file=self.requests, flush=True)
        except BrokenPipeError:
            raise self.failure("has ended") from None
        outcome: dict[str, Any] = self.read("outcome")["outcome"]
        return outcome

    def read(self, *keys: str) -> dict[str, Any]:
        """The next line, a map that must have the keys."""
        line = self.answers.readline()
        if not line:
            raise self.failure("has ended")
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict) and all(key in answer for key in keys):
                return answer
        raise self.failure(f"answered {line.strip()[:200]!r}")

    def failure(self, what: str) -> SystemExit:
        """What ends this script: what happened, with the last lines of the log."""
        self.close()
        tail = self.log.read_text(errors="replace").splitlines()[-10:]
        return SystemExit("\n".join([f"error: the evaluator {what} (exit status {self.process.returncode})", *tail]))

    def close(self) -> None:
        """Lets the process end, or after ten seconds makes it."""
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Run:
    """What a search asked for and got."""

    def __init__(self, evaluator: Evaluator, budget: int) -> None:
        self.evaluator, self.budget = evaluator, budget
        self.sizes = [len(axis["options"]) for axis in evaluator.about["axes"]]
        self.reference: Point = evaluator.about["reference"]
        self.known: dict[tuple[int, ...], Point] = {}
        self.scored: list[Point] = []
        self.points: list[dict[str, Any]] = []
        self.trace: list[tuple[int, float]] = []
        self.samples = self.repeats = self.idle = 0

    def objectives(self, candidate: tuple[int, ...]) -> Point:
        """Drop and latency for the optimiser; ends the run with `Finished`."""
        self.idle += 1
        if candidate in self.known:
            self.repeats += 1
        else:
            self.known[candidate] = self.evaluate(candidate)
        if self.samples >= self.budget:
            raise Finished("budget")
        if self.idle >= PATIENCE:
            raise Finished(f"{PATIENCE} candidates in a row inferred nothing")
        return self.known[candidate]

    def evaluate(self, candidate: tuple[int, ...]) -> Point:
        """The same of a new candidate, which is noted."""
        outcome = self.evaluator.outcome(candidate)
        status: str = outcome["status"]
        score: Any = outcome.get("score") or {}
        cost: Any = outcome.get("cost") or {}
        inferred, drop, latency = score.get("samples", 0), score.get("drop"), cost.get("latency_ms")
        self.samples += inferred
        point = {"samples": self.samples, "drop": drop, "drop_high": score.get("drop_high"), "latency_ms": latency, "bytes": cost.get("bytes")}
        self.points.append(point | {"status": status, "n": inferred, "candidate": candidate})
        if not score:
            return 1.0, max(latency or 0.0, self.evaluator.about["float"]["latency_ms"])
        self.idle = 0
        if status in ("measured", "sampled"):
            self.scored.append((max(drop, 0.0), latency))
        self.trace.append((self.samples, hypervolume(self.scored, self.reference)))
        return drop, latency


def hypervolume(points: list[Point], reference: Point) -> float:
    """What the points dominate of the box from the origin to the reference point."""
    area, edge = 0.0, reference[0]
    for drop, latency in sorted(points, key=lambda point: point[1]):
        if drop < edge and latency < reference[1]:
            area += (edge - drop) * (reference[1] - latency)
            edge = drop
    return area / (reference[0] * reference[1])


def optuna_search(run: Run, seed: int) -> None:
    """Optuna's sampler; ends with the run."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    while True:
        trial = study.ask()
        candidate = tuple(trial.suggest_categorical(str(axis), range(size)) for axis, size in enumerate(run.sizes))
        study.tell(trial, run.objectives(candidate))


def pymoo_search(run: Run, seed: int) -> None:
    """Pymoo's algorithm; ends with the run, or where mating makes only what the population has."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    class Space(ElementwiseProblem):
        def __init__(self) -> None:
            super().__init__(n_var=len(run.sizes), n_obj=2, xl=0, xu=[size - 1 for size in run.sizes], vtype=int)

        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            out["F"] = run.objectives(tuple(x.tolist()))

    rounded = {"prob": 1.0, "eta": 3.0, "vtype": float, "repair": RoundingRepair()}
    algorithm = NSGA2(POPULATION, sampling=IntegerRandomSampling(), crossover=SBX(**rounded), mutation=PM(**rounded), eliminate_duplicates=True)
    minimize(Space(), algorithm, NoTermination(), seed=seed)
    raise Finished("no new candidates")


def search(arguments: argparse.Namespace) -> None:
    """Runs a search and writes what came of it, also where it was cut short."""
    command = [str(arguments.gulliver.resolve()), "bench", str(arguments.spec), "--serve", "--out", str(arguments.out.with_suffix(".study"))]
    command += ["--jobs", str(arguments.jobs)] if arguments.jobs else []
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    run = Run(Evaluator(command, arguments.out.with_suffix(".log")), arguments.samples)
    ended = "cut short"
    try:
        {"optuna": optuna_search, "pymoo": pymoo_search}[arguments.tool](run, arguments.seed)
    except Finished as reason:
        ended = str(reason)
    finally:
        run.evaluator.close()
        write(arguments, run, ended)


def write(arguments: argparse.Namespace, run: Run, ended: str) -> None:
    """Writes the result and prints it in a line."""
    head = {"tool": f"{arguments.tool} {version(arguments.tool)}", "sampler": "NSGA-II", "population": POPULATION, "seed": arguments.seed}
    judged = {key: run.evaluator.about.get(key) for key in ("reference", "horizon", "float")}
    measured = {"repeats": run.repeats, "points": run.points, "hypervolume": run.trace}
    arguments.out.write_text(json.dumps(head | {"spec": str(arguments.spec), "ended": ended} | judged | measured) + "\n")
    counts = f"{run.samples} samples, {len(run.points)} evaluations, {run.repeats} repeats"
    reached = hypervolume(run.scored, run.reference)
    print(f"{head['tool']} NSGA-II, seed {arguments.seed}: {counts}, hypervolume {reached:.4f} ({ended})", flush=True)


def compare(paths: list[Path]) -> None:
    """Prints the table of files."""
    results = [json.loads(path.read_text()) for path in paths]
    if len({json.dumps(result["reference"]) for result in results if "reference" in result}) > 1:
        print("warning: the files differ in their reference points, so their hypervolumes do not compare", file=sys.stderr)
    traces = [result["hypervolume"] or [(0, 0.0)] for result in results]
    goal = traces[0][-1][1]
    heads = ["file", "tool", "seed", "samples", "evaluations", "hypervolume", *(f"samples to {share:.0%}" for share in SHARES)]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for path, result, trace in zip(paths, results, traces):
        row = [path.name, result.get("tool", ""), result.get("seed", ""), trace[-1][0], len(result["points"]), f"{trace[-1][1]:.4f}"]
        row += [next((samples for samples, reached in trace if reached >= share * goal - 1e-12), "never") for share in SHARES]
        print(f"| {' | '.join(map(str, row))} |")


def main() -> None:
    """Searches or compares, as the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, nargs="?", metavar="SPEC")
    parser.add_argument("--gulliver", type=Path, default=Path("target/release/gulliver"))
    parser.add_argument("--tool", choices=["optuna", "pymoo"])
    parser.add_argument("--samples", type=int, help="how many the evaluator may infer in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, help="passed on to gulliver")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path, nargs="+", metavar="JSON")
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.compare)
    elif None in (arguments.spec, arguments.tool, arguments.samples, arguments.out):
        parser.error("a search needs SPEC, --tool, --samples and --out")
    else:
        search(arguments)


if __name__ == "__main__":
    main()
