"""A model of training on 8 to 512 GPUs, from message sizes and bandwidths: `python -m benchmarks.scaling --help`.

It is a calculation. The networks are this project's, built without memory; the rest are the assumptions in its options.
"""

import json
import math
from dataclasses import dataclass
from functools import cache

import click
import torch

from benchmarks.flop import flop
from elucid.dnnlib import cli
from elucid.training.config.build import make_denoiser
from elucid.training.networks.regions import regions
from elucid.training.registry.adm_options import OTHERS, RENAMED, network_options
from elucid.training.registry.adm_presets import PRESETS
from elucid.training.types import NetSpec

NETWORKS = {
    "DDPM++, CIFAR-10": ({"name": "ddpmpp"}, 32, 10, 512, {"augment": 9}),
    "ADM, ImageNet-64": ({"name": "adm"}, 64, 1000, 4096, {}),
    "ADM, ImageNet-256": ("imagenet256", 256, 1000, 256, {}),
    "ADM, ImageNet-512": ("imagenet512", 512, 1000, 256, {}),
}
"""Network or preset of ADM, side, classes, images per step as published, further conditions."""
COUNTS = (8, 16, 32, 64, 128, 256, 512)
MASTER = 4
"""Bytes of a weight, of its gradient, of each of Adam's two moments and of each average."""


@dataclass(frozen=True)
class Network:
    """Rows and numbers of each parameter, numbers of the largest region, number of regions, FLOP per image and step."""

    shapes: tuple[tuple[int, int], ...]
    largest: int
    regions: int
    flop: float

    @property
    def parameters(self) -> int:
        return sum(numbers for _, numbers in self.shapes)

    def part(self, count: int) -> int:
        """Numbers on the fullest of `count` processes: FSDP2 gives whole rows."""
        return sum(math.ceil(rows / count) * numbers // rows for rows, numbers in self.shapes)


@dataclass(frozen=True)
class Machine:
    """The assumptions, in FLOP/s, bytes/s and seconds; see the options for their meaning."""

    peak: float
    share: float
    pass_seconds: float
    node: int
    inside: float
    outside: float
    latency: float
    overlap: float
    bucket: float = 25e6

    def exchange(self, size: float, count: int) -> float:
        """Seconds in which `count` GPUs gather, or sum and scatter, `size` bytes: in each node, and between nodes.

        Of n GPUs in a ring each sends (n - 1) / n of the bytes; between nodes, each has its share of them.
        """
        local = min(count, self.node)
        return self._ring(size, local, self.inside) + self.between(size / local, count // local)

    def between(self, size: float, nodes: int) -> float:
        """Seconds of the same for GPUs with the same place in different nodes."""
        return self._ring(size, nodes, self.outside)

    def _ring(self, size: float, count: int, bandwidth: float) -> float:
        return size * (count - 1) / count / bandwidth + self.latency * math.log2(count)


@cache
def network(name: str) -> Network:
    """Build a network without memory, and count."""
    component, side, classes, _, further = NETWORKS[name]
    if isinstance(component, str):
        options = network_options({key: one for key, one in PRESETS[component].items() if key in {*RENAMED, *OTHERS}})
        component = {"name": "adm_unet", **{key: one for key, one in options.items() if key != "img_resolution"}}
    spec = NetSpec((side, side), 3, vector={"labels": classes, **further})
    denoiser = make_denoiser(component, {"name": "edm"}, spec, weights=False)
    blocks = [sum(one.numel() for one in region.parameters()) for region in regions(denoiser.model)]
    empty = {name: torch.empty(1, width, device="meta") for name, width in spec.vector.items()}
    denoiser.model.to("meta")
    of_forward = flop(
        denoiser.model, torch.empty(1, 3, side, side, device="meta"), torch.empty(1, device="meta"), empty
    )
    shapes = tuple((len(one), one.numel()) for one in denoiser.parameters())
    return Network(shapes, max(blocks), len(blocks), 3 * of_forward)


def step_seconds(net: Network, machine: Machine, images: int, count: int, bits: int, group: int) -> float:
    """Seconds of a step on `images` per GPU: passes, and what of the exchange they do not hide.

    `group` 1 is DistributedDataParallel, which sums gradients (float32) during the backward pass. With more, FSDP2
    gathers weights in a group, in `bits`, for the forward pass and again for the backward pass, in which it scatters
    the sums of gradients, and sums these over the groups. The first and the last message are not hidden.
    """
    busy = max(images * net.flop / (machine.peak * machine.share), machine.pass_seconds)
    gradients, groups = MASTER * net.parameters, count // group
    if group == 1:
        buckets = math.ceil(gradients / machine.bucket)
        bare = 2 * machine.exchange(gradients / buckets, count)
        forward, backward = 0.0, (buckets - 1) * bare
    else:
        units = net.regions + 1
        gather = machine.exchange(net.parameters * bits / 8 / units, group)
        scatter = machine.exchange(gradients / units, group)
        between = 2 * machine.between(gradients / units / group, groups)
        bare = 2 * gather + scatter + between
        forward, backward = (units - 1) * gather, (units - 1) * (gather + scatter + between)
    hidden = machine.overlap * busy / 3
    return busy + bare + max(forward - hidden, 0.0) + max(backward - 2 * hidden, 0.0)


def held_bytes(net: Network, count: int, group: int, bits: int, averages: int = 1) -> float:
    """Bytes on a GPU of weights, gradients, Adam's moments and averages, without activations."""
    everything = MASTER * net.part(group) * (4 + averages)
    gathered = 2 * net.largest * bits / 8 + net.largest * MASTER  # one region computes, the next is on its way
    return everything + (gathered if group > 1 else 0)


def rows(name: str, machine: Machine, bits: int, strong: bool) -> list[dict]:
    """Return a row for each number of GPUs: images/s and memory of each way, and the efficiency."""
    net, batch, result = network(name), NETWORKS[name][3], []
    for count in COUNTS:
        images = batch // count if strong else batch // COUNTS[0]
        if not images:
            continue
        ways = {"ddp": 1, "shard": count, "shard 8": COUNTS[0]}
        row = {"GPUs": count, "images per GPU": images}
        for way, group in ways.items():
            seconds = step_seconds(net, machine, images, count, bits, group)
            row[way] = images * count / seconds
            row[f"{way} GB"] = held_bytes(net, count, group, bits) / 1e9
        row["efficiency"] = row["ddp"] / count / (images / max_pass(net, machine, images))
        result.append(row)
    return result


def max_pass(net: Network, machine: Machine, images: int) -> float:
    """Seconds of the passes alone."""
    return step_seconds(net, machine, images, 1, 32, 1)


def table(name: str, precision: str, found: list[dict]) -> str:
    """Return the rows as a table of a page."""
    net = network(name)
    lines = [
        f"**{name}**, {precision}: {net.parameters / 1e6:.1f} M parameters, {net.regions} regions, "
        f"{net.flop / 1e9:,.0f} GFLOP per image and step",
        "",
        "| GPUs | images per GPU | images/s: whole | shared out by all | by groups of 8 | of the ideal "
        "| GB per GPU: whole | by all | by 8 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        speeds = " | ".join(f"{row[way]:,.0f}" for way in ("ddp", "shard", "shard 8"))
        memory = " | ".join(f"{row[f'{way} GB']:.2f}" for way in ("ddp", "shard", "shard 8"))
        lines.append(
            f"| {row['GPUs']} | {row['images per GPU']} | {speeds} | {100 * row['efficiency']:.0f} % | {memory} |"
        )
    return "\n".join([*lines, ""])


@click.command()
@click.option("--network", "names", multiple=True, type=click.Choice(list(NETWORKS)), help="All, if not given.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["tf32", "bf16"]), default=["tf32", "bf16"])
@click.option("--peak", type=float, default=989, show_default=True, help="TFLOP/s in bf16; tf32 has half of it.")
@click.option("--share", type=float, default=0.4, show_default=True, help="Share of the peak that passes reach.")
@click.option("--pass-ms", type=float, default=25, show_default=True, help="Least time of a pass: its launches.")
@click.option("--node", type=int, default=8, show_default=True, help="GPUs in a node.")
@click.option("--inside", type=float, default=360, show_default=True, help="GB/s of a GPU to others in its node.")
@click.option("--outside", type=float, default=40, show_default=True, help="GB/s of a GPU to other nodes.")
@click.option("--latency-us", type=float, default=10, show_default=True, help="Of a message; times log2 of the GPUs.")
@click.option(
    "--overlap", type=float, default=0.9, show_default=True, help="Part of the passes that exchanges hide in."
)
@click.option("--weak", is_flag=True, help="As many images per GPU as with 8, instead of per step.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, writable=True), help="Write the rows here, too.")
def main(names, precisions, peak, share, pass_ms, node, inside, outside, latency_us, overlap, weak, json_path):
    """Print a table per network and precision."""
    results = []
    for name in names or NETWORKS:
        for precision in precisions:
            bits = 16 if precision == "bf16" else 32
            full = peak * 1e12 / (1 if bits == 16 else 2)
            links = inside * 1e9, outside * 1e9, latency_us * 1e-6
            machine = Machine(full, share, pass_ms * 1e-3, node, *links, overlap)
            found = rows(name, machine, bits, not weak)
            click.echo(table(name, precision, found))
            results += [{"network": name, "precision": precision, **row} for row in found]
    if json_path:
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    cli.run(main)
