"""What moves a model below the MLE's temperature curve at the paper's size? Every try is one run of ``corrected`` with
some settings changed; docs/search.md holds what came out.

    python benchmarks/search.py --oracle seqgan_oracle.npz --seeds 0                  every try, one seed
    python benchmarks/search.py --oracle seqgan_oracle.npz --seeds 1 2 3 --only ...   the best again, on fresh seeds
    python benchmarks/search.py --oracle seqgan_oracle.npz --base plain               from the MLE that is only stopped

Some five minutes a run on one thread, and ten more for the first of a seed. Stop it when you like: finished runs are
kept, and only missing ones are made.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_RLOO = "--agent.algorithm rloo --agent.options beta=0.05 --agent.batch-size 512 --agent.no-rollouts"

_OLD = Path(__file__).with_name("corrected_1.yaml")
TRIES: dict[str, dict[str, str]] = {
    # from the MLE that is only stopped early: the preset as it was, corrected_1.yaml
    "plain": {
        "corrected": "",
        "reward D": "--agent.reward discriminator",
        "reward log D": "--agent.reward log_d",
        # a discriminator that generalises
        "MLE's embedding in D": "--network.pretrained-embedding",
        "causal D": "--network.name causal_gru --network.embedding-dim 32 --network.hidden-dim 32",
        "ensemble of 3": "--network.name ensemble --network.size 3",
        "gradient penalty 1": "--discriminator.gradient-penalty 1",
        "weight decay 1": "--discriminator.weight-decay 1",
        "init scale .1": "--network.init-scale 0.1",
        # updates
        "MLE mixed in, 20": "--agent.mle-coef 20",
        "B = 256": "--agent.batch-size 256",
        "120 rounds": "--rounds 120",
        "RLOO, KL .05": _RLOO,
        "GRPO, KL .05": "--agent.algorithm grpo --agent.options beta=0.05 --agent.batch-size 512 --agent.no-rollouts",
        "KL .1": "--agent.kl-coef 0.1",
        "lr .002": "--agent.learning-rate 0.002",
        "lr .0005, 120 rounds": "--agent.learning-rate 0.0005 --rounds 120",
        "200 rounds, averaging .97": "--rounds 200 --agent.averaging 0.97",
        # rewards
        "reward rank": "--agent.reward rank",
        "reward D/(1-D) (MaliGAN)": "--agent.reward maligan",
        "reward RankGAN": "--agent.reward rankgan",
        "reward -log(1-D)": "--agent.reward neg_log_one_minus_d",
        # more of the same
        "20 minibatches a round": "--discriminator.minibatches-per-round 20",
        "label smoothing .1": "--discriminator.label-smoothing 0.1",
        "replay half": "--discriminator.replay-share 0.5",
        "spectral norm": "--network.spectral-norm",
        "entropy .01": "--agent.ent-coef 0.01",
        "transformer D": "--network.name transformer --network.dropout 0.5",
        "GRU D": "--network.name gru --network.hidden-dim 32",
        # what helped alone, together
        "40 minibatches a round": "--discriminator.minibatches-per-round 40",
        "20 minibatches, 120 rounds": "--discriminator.minibatches-per-round 20 --rounds 120",
        "20 minibatches, KL .05": "--discriminator.minibatches-per-round 20 --agent.kl-coef 0.05",
        "20 minibatches, MLE mixed in, 20": "--discriminator.minibatches-per-round 20 --agent.mle-coef 20",
        "20 minibatches, B = 256": "--discriminator.minibatches-per-round 20 --agent.batch-size 256",
        "RLOO, KL .05, 20 minibatches": f"{_RLOO} --discriminator.minibatches-per-round 20",
        "RLOO, KL .05, 20 minibatches, 120 rounds": f"{_RLOO} --discriminator.minibatches-per-round 20 --rounds 120",
        "RLOO, KL .05, 40 minibatches, 120 rounds": f"{_RLOO} --discriminator.minibatches-per-round 40 --rounds 120",
    },
    # from the regularised MLE: the preset as it is
    "regularised": {
        "corrected": "",
        "no weight averaging": "--agent.averaging 0",
        "rewards to go": "--agent.baseline leave_one_out",
        "RLOO": "--agent.algorithm rloo --agent.options beta=0.05",
        "rollouts, B = 64": "--agent.rollouts --agent.no-score-differences --agent.batch-size 64",
        "one model of real sequences": "--network.size 1",
        "four models of real sequences": "--network.size 4",
        "models of 64 units": "--network.embedding-dim 64 --network.hidden-dim 64",
        "no weight decay in D": "--discriminator.weight-decay 0",
        "lr .003": "--agent.learning-rate 0.003",
        "400 rounds": "--rounds 400",
    },
    # from the regularised MLE, but discriminator and agent of corrected_1.yaml
    "blind": {"corrected/1": ""},
}
"""Flags of each try on top of ``--preset corrected``, by what it starts from; the first of each is the start."""
CONFIGS: dict[str, list[str]] = {
    "plain": ["--config", str(_OLD)],
    "regularised": [],
    "blind": ["--config", str(_OLD), "--mle.weight-decay", "0.3", "--mle.frequency-bias"],
}


def main() -> None:
    """Run what is missing, then print the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", default="0", help="seed, or .npz file of the published form")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--base", default="regularised", choices=list(TRIES), help="what all tries start from")
    parser.add_argument("--only", nargs="+", metavar="TRY", help="some tries")
    parser.add_argument("--folder", type=Path, default=Path("runs/search"))
    arguments = parser.parse_args()
    folder, tries = arguments.folder / arguments.base, TRIES[arguments.base]
    unknown = set(arguments.only or ()) - set(tries)
    if unknown:
        parser.error(f"unknown tries {sorted(unknown)}; of --base {arguments.base} there are {', '.join(tries)}")
    start = next(iter(tries))
    for seed in arguments.seeds:
        common = f"--preset corrected --oracle {arguments.oracle} --seed {seed} --threads 1".split()
        for name in arguments.only or tries:
            run = folder / f"seed-{seed}"
            flags = [*common, *CONFIGS[arguments.base], *tries[name].split()]
            _run(run / _slug(name), None if name == start else run / _slug(start), flags)
    print(_table(folder, tries))


def _run(run: Path, start: Path | None, flags: list[str]) -> None:
    """One try, unless it is done; the MLE is trained once a seed."""
    if (run / "results.json").is_file():
        return
    print(f"{run.name}, {run.parent.name}", file=sys.stderr)
    how = ["--resume", str(run)] if (run / "config.json").is_file() else [*flags, "--run", str(run)]
    if how[0] != "--resume" and start is not None and (start / "results.json").is_file():
        how += ["--start", str(start)]
    subprocess.run(
        [sys.executable, "-m", "seqgan_rl", "train", "--quiet", *how], check=False, stdout=subprocess.DEVNULL
    )


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def _table(folder: Path, tries: Iterable[str]) -> str:
    """Markdown: a row a try, with the gap of each seed."""
    lines = [
        "| try | seed | MLE NLL_oracle / NLL_test | NLL_oracle / NLL_test | entropy | distinct | KL(G‖O) | AUC | gap |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in tries:
        for path in sorted(folder.glob(f"seed-*/{_slug(name)}/results.json")):
            rows = {row["name"]: row for row in json.loads(path.read_text())["rows"]}
            mle, row = rows["MLE"]["scores"], list(rows.values())[-1]
            scores, gap = row["scores"], row["gap"]
            metrics = [json.loads(line) for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
            auc = [m["discriminator/auc"] for m in metrics if "eval/nll_test" in m and "discriminator/auc" in m]
            value = "-" if gap["value"] is None else f"{gap['value']:+.3f} ±{gap['standard_error']:.3f}"
            dagger = "†" if gap["kind"] == "nll_test at equal nll_oracle" else ""
            lines.append(
                f"| {name} | {path.parent.parent.name[5:]} | {mle['nll_oracle']:.3f} / {mle['nll_test']:.3f} "
                f"| {scores['nll_oracle']:.3f} / {scores['nll_test']:.3f} | {scores['entropy']:.3f} "
                f"| {scores['distinct_tokens']:,} | {scores['nll_oracle'] - scores['entropy']:.3f} "
                f"| {auc[0]:.2f} → {auc[-1]:.2f} | {value}{dagger} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
