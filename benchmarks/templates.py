"""Speed and validity of templates: milliseconds per sample, mutation, crossover and encoding; all must build.

    python benchmarks/templates.py [--count 10000] [--train 1000] [--json PATH]

`--count` templates are sampled, repaired, mutated, crossed, described and encoded, for images of 8 x 8, 28 x 28, 32 x 32 and
224 x 224 with 1 to 3 channels; times are CPU time of this process on one core. Then `--train` of them are built and run
forward and backward once, with a batch of 2 on one thread, and every shape, the number of parameters and the FLOPs are
compared with torch's (from 64 pixels on without data, on torch's meta device, which tracks shapes and gradients without
computing; FLOPs aren't counted there). Goals: a template is generated in less than 1 ms (median), and none fails to build.
Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from lightning_evo.genome import Layers, Template
from lightning_evo.models import TemplateNetwork

SHAPES = ([1, 8, 8], [1, 28, 28], [2, 28, 28], [3, 32, 32], [3, 224, 224])
GOAL = 1.0
"""Milliseconds per generated template."""
META_FROM = 64


def vary(count: int) -> tuple[dict[str, list[float]], list[Template]]:
    """Times of each operation in milliseconds, and the templates."""
    rng = random.Random(0)
    genes = [Layers(shape, 10, max_features=1024) for shape in SHAPES]
    times: dict[str, list[float]] = {}
    templates, earlier = [], {id(gene): gene.sample(rng) for gene in genes}

    def clock(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        start = time.process_time_ns()
        result = work(*arguments)
        times.setdefault(name, []).append((time.process_time_ns() - start) / 1e6)
        return result

    for i in range(count):
        gene = genes[i % len(genes)]
        value = clock("sample", gene.sample, rng)
        for operation in gene.mutations:
            clock(f"mutate: {operation}", gene.mutate, value, rng, operation)
        for kind in gene.crossovers:
            clock(f"crossover: {kind}", gene.crossover, value, earlier[id(gene)], rng, kind)
        clock("repair and print", lambda gene, value: str(gene.template(value)), gene, value)
        clock("features", gene.features, value)
        numbers = clock("encode", gene.encode, value)
        if clock("decode", gene.decode, numbers) != value:
            raise SystemExit(f"decoded, this is another template: {value}")
        templates.append(gene.template(value))
        earlier[id(gene)] = value
    return times, templates


def train(template: Template) -> str | None:
    """Build, run forward and backward; return the differences from the template, or the error."""
    try:
        meta = template.input_shape[1] >= META_FROM
        with torch.device("meta" if meta else "cpu"):
            network = TemplateNetwork(template)
            seen: dict[int, tuple[int, ...]] = {}
            for i, layer in enumerate(network.layers):
                layer.register_forward_hook(lambda _, __, out, i=i: seen.update({i: tuple(out.shape[1:])}))
            scores = network(torch.randn(2, *template.input_shape))
            scores.square().sum().backward()
            if tuple(seen[i] for i in range(len(template))) != template.shapes:
                return f"shapes {seen}"
            if sum(p.numel() for p in network.parameters()) != template.params:
                return f"parameters {sum(p.numel() for p in network.parameters())}"
            if not meta:
                with FlopCounterMode(display=False) as counter, torch.no_grad():
                    network.eval()(torch.zeros(1, *template.input_shape))
                if counter.get_total_flops() != template.flops:
                    return f"FLOPs {counter.get_total_flops()}"
    except Exception as error:
        return repr(error)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="templates that are varied and encoded")
    parser.add_argument("--train", type=int, default=1_000, help="templates that are built and trained for a step")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    times, templates = vary(asked.count)
    table = Table("operation", "median ms", "99 % ms", "most ms")
    rows = {}
    for name, spent in times.items():
        spent.sort()
        rows[name] = [spent[len(spent) // 2], spent[int(0.99 * (len(spent) - 1))], spent[-1]]
        table.add_row(name, *(f"{number:.3f}" for number in rows[name]))
    Console().print(table)

    chosen = random.Random(1).sample(templates, min(asked.train, len(templates)))
    started = time.process_time()
    failed = [f"{why}\n{template}" for template in chosen if (why := train(template)) is not None]
    seconds = time.process_time() - started
    print(f"{len(chosen)} built and trained for a step in {seconds:.0f} s of CPU, {len(failed)} not as they say")
    print("\n\n".join(failed[:3]))
    if asked.json:
        figures = {"milliseconds": rows, "trained": len(chosen), "failed": len(failed), "seconds": seconds}
        asked.json.write_text(json.dumps(figures, indent=1))
    sys.exit(int(rows["sample"][0] >= GOAL or bool(failed)))


if __name__ == "__main__":
    main()
