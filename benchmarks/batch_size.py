"""What one evaluation of the bundled network takes a photo, by how many photos share it.

    python benchmarks/batch_size.py --rounds 5

A round measures every size in turn. The table has the median over the rounds of processor time, so
that other programs count for little, and the range of its ratio to one photo at a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from dehaze import DehazePipeline

SIZES = (1, 2, 4, 8)
REPEATS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    pipe = DehazePipeline.from_pretrained("bundled")
    latent = pipe.encode(np.zeros((512, 768, 3), np.float32))
    words = torch.zeros(1, 8, pipe.unet.config.cross_attention_dim)
    seconds = np.empty((given.rounds, len(SIZES)))
    with torch.no_grad():
        for taken in seconds:
            for index, size in enumerate(SIZES):
                batch = latent.expand(size, -1, -1, -1).contiguous()
                context = words.expand(size, -1, -1).contiguous()
                runs = []
                for _ in range(REPEATS):
                    before = time.process_time()
                    pipe.unet(batch, 500, encoder_hidden_states=context)
                    runs.append((time.process_time() - before) / size)
                taken[index] = np.median(runs)
    print("| photos at a time | ms a photo | to one at a time |")
    print("| ---: | ---: | ---: |")
    for index, size in enumerate(SIZES):
        ratios = seconds[:, index] / seconds[:, 0]
        print(
            f"| {size} | {1000 * np.median(seconds[:, index]):.1f} | "
            f"{ratios.min():.2f} to {ratios.max():.2f} |"
        )


if __name__ == "__main__":
    main()
