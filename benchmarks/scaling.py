"""How long an epoch of Stable Diffusion 3.5 Medium takes on 8 to 1,024 GPUs: a model, not a
measurement.

    benchmarks/scaling.py                 the tables, as Markdown
    benchmarks/scaling.py --page FILE     compares them with those of a page
    benchmarks/scaling.py --local BUILD   measures 1, 2 and 4 processes of `scenes` of a build folder,
                                          beside what a division without loss would give

The time of an epoch is that of the rank that has most to do, and of what all do together:

    T(n) = most samples of a rank * seconds a sample + steps * (optimiser + sum of gradients(n))

A sample is collected and learnt from where it was made, and the samples of a prompt are made by one
rank, so a rank has whole groups: with fewer prompts than ranks some have none. A sum of b bytes over
n ranks takes 2 b (n - 1) / n over the speed of the slowest link, and a latency for each of the
2 log2(n) turns of a tree. Nothing overlaps: scores that are waited for are not counted, nor are
evaluations, nor prompts, which are encoded once.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile

BYTES = 4  # of a number of weights, gradients and states: float32


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Stable Diffusion 3.5 Medium at 512 x 512 pixels, as its published config says."""

    layers: int = 24
    dual_layers: int = 13  # whose image tokens attend to each other once more
    width: int = 1536
    image_tokens: int = (512 // 8 // 2) ** 2
    text_tokens: int = 77 + 256
    weights: float = 2.24e9

    def forward_flop(self):
        """Multiplications and additions of one velocity: products of linear layers, and attention."""
        square = self.width**2
        image = (12 * self.layers + 4 * self.dual_layers) * square * self.image_tokens
        text = 12 * self.layers * square * self.text_tokens
        joint = 2 * self.layers * (self.image_tokens + self.text_tokens) ** 2 * self.width
        dual = 2 * self.dual_layers * self.image_tokens**2 * self.width
        return 2 * (image + text + joint + dual)

    def adapter(self, rank):
        """Numbers of an adapter on the attention of both streams: 8 layers a block, the last less one."""
        return rank * 2 * self.width * (8 * self.layers - 1)


@dataclasses.dataclass(frozen=True)
class Machine:
    """GPUs in machines of eight; speeds are what is reached, not what is sold."""

    flop: float = 400e12  # a second: 0.4 of an H100's in bfloat16
    memory: float = 2.3e12  # bytes a second: 0.7 of an H100's
    inside: float = 300e9  # bytes a second of a sum within a machine, over NVLink
    between: float = 40e9  # bytes a second and GPU between machines, over 400 Gbit/s
    latency: float = 20e-6  # seconds a turn
    per_machine: int = 8

    def sum_seconds(self, numbers, ranks):
        if ranks == 1:
            return 0.0
        speed = self.inside if ranks <= self.per_machine else self.between
        turns = 2 * math.ceil(math.log2(ranks))
        return 2 * numbers * BYTES * (ranks - 1) / ranks / speed + turns * self.latency


@dataclasses.dataclass(frozen=True)
class Epoch:
    """NFT with its KL term, as published."""

    prompts: int = 48
    group: int = 24
    collection_steps: int = 10
    times: int = 9  # a sample is noised to: nine of ten of the grid
    roles: int = 3  # current, old and reference at each of them
    gradient_steps: int = 1
    recompute: bool = True  # activations are computed again

    def sample_flop(self, transformer, trains_all):
        """Backward, activations take what forward took, and trained weights that once more."""
        backward = 1 + (1 if trains_all else 0) + (1 if self.recompute else 0)
        velocities = self.collection_steps + self.times * (self.roles + backward)
        return velocities * transformer.forward_flop()

    def most_samples(self, ranks):
        return math.ceil(self.prompts / ranks) * self.group


def step_seconds(machine, numbers):
    """AdamW reads and writes weight and two moments and reads the gradient; the average and the old
    role are read, written, and follow what is read."""
    return numbers * BYTES * (7 + 2 * 3) / machine.memory


def epoch_seconds(ranks, epoch, trained, machine=Machine(), transformer=Transformer()):
    flop = epoch.sample_flop(transformer, trained == transformer.weights)
    samples = epoch.most_samples(ranks) * flop / machine.flop
    together = step_seconds(machine, trained) + machine.sum_seconds(trained, ranks)
    return samples + epoch.gradient_steps * together


def table(prompts_of):
    """Rows of GPUs; seconds and efficiency of an adapter of rank 32 and of all weights."""
    transformer = Transformer()
    kinds = [transformer.adapter(32), transformer.weights]
    lines = [
        "| GPUs | prompts | adapter, s | images a second | efficiency | all weights, s | efficiency |",
        "|---|---|---|---|---|---|---|",
    ]
    for ranks in (1, 8, 16, 64, 256, 1024):
        epoch = Epoch(prompts=prompts_of(ranks))
        alone = [epoch_seconds(1, epoch, trained) for trained in kinds]
        many = [epoch_seconds(ranks, epoch, trained) for trained in kinds]
        share = [one / ranks / all_of_them for one, all_of_them in zip(alone, many)]
        images = epoch.prompts * epoch.group / many[0]
        lines.append(
            f"| {ranks} | {epoch.prompts} | {many[0]:.1f} | {images:.1f} | {share[0]:.2f} "
            f"| {many[1]:.1f} | {share[1]:.2f} |"
        )
    return "\n".join(lines)


def tables():
    return (
        "The published 48 prompts:\n\n"
        + table(lambda ranks: 48)
        + "\n\nSix prompts for each GPU:\n\n"
        + table(lambda ranks: 6 * ranks)
        + "\n"
    )


def median_epoch(lines):
    """Seconds and bytes of an epoch, medians without the first; training alone."""
    epochs = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    metrics = [one["metrics"] for one in epochs if one.get("kind") == "epoch"][1:]
    seconds = statistics.median(one["seconds/epoch"] for one in metrics)
    return seconds, statistics.median(one.get("ranks/bytes", 0.0) for one in metrics)


def local(build, cores):
    """Runs scenes by itself and as several processes, and holds the model to it."""
    program = build / "examples" / "scenes"
    if not program.is_file():
        sys.exit(f"{program}: not built")
    with tempfile.TemporaryDirectory() as folder:
        measured = {}
        for ranks in (1, 2, 4):
            output = pathlib.Path(folder) / str(ranks)
            subprocess.run(
                ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks), str(program),
                 "--epochs", "6", "--evaluate-every", "6", "--evaluated", "1", "--threads", "1",
                 "--output", str(output)],
                check=True, stdout=subprocess.DEVNULL,
            )
            measured[ranks] = median_epoch(output / "run.jsonl")
    print("| processes | measured, s | without loss, s | bytes an epoch |\n|---|---|---|---|")
    alone = measured[1][0]
    for ranks, (seconds, sent) in measured.items():
        # 24 prompts divide; more processes than cores share them.
        print(f"| {ranks} | {seconds:.2f} | {alone / min(ranks, cores):.2f} | {sent:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=pathlib.Path, help="a page that must hold the tables")
    parser.add_argument("--local", type=pathlib.Path, metavar="BUILD", help="a build folder")
    parser.add_argument("--cores", type=int, default=2, help="of this machine, for --local")
    arguments = parser.parse_args()
    if arguments.local:
        return local(arguments.local, arguments.cores)
    if not arguments.page:
        return print(tables(), end="")
    page = arguments.page.read_text(encoding="utf-8")
    missing = [line for line in tables().splitlines() if line not in page]
    print("\n".join(f"not on {arguments.page.name}: {line}" for line in missing))
    return sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
