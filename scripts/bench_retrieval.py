"""Time per generated token of a landmark model with random access, beside full attention over as long a cache.

    python scripts/bench_retrieval.py                                             # 4k to 256k tokens of context
    python scripts/bench_retrieval.py --contexts 4096,32768 --search exact,faiss:HNSW32 --keep cpu,file

One process and one thread; times are processor time of a token, the least of `--rounds` runs of `--new` tokens. Both
models have the same random weights, of SmolLM2-135M's width (9 query heads of 64 over 3) with fewer layers. The
landmark model has read all its context. Full attention, which would take hours to read it, finds a cache of random keys
and values: a token costs the same whatever they say.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import ringattn
from ringattn.models.decode import Decoder
from ringattn.models.landmark import to_landmark
from ringattn.models.landmark.read import RandomAccess
from ringattn.report.table import table
from ringattn.settings.retrieval import RetrievalConfig

HEADS, KEY_HEADS, HEAD_DIM, INNER, VOCABULARY = 9, 3, 64, 1536, 1024


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    print(
        f"Generation after a context, {options.layers} layers of SmolLM2-135M's width, fp32, one thread, "
        f"blocks of {options.block}, k = {options.k}, torch {torch.__version__}:\n"
    )
    rows = [[str(context), *of_full_attention(context, options)] for context in options.contexts]
    columns = ["context", "full attention"]
    for search in options.search:
        for keep in options.keep:
            columns.append(f"{search}, {keep}")
            for row, time_of_token in zip(rows, of_landmarks(search, keep, options), strict=True):
                row.append(time_of_token)
    print(table([columns[0], *(f"{name}, ms" for name in columns[1:])], rows))


def make_model(layers: int, longest: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=HEADS * HEAD_DIM, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, head_dim=HEAD_DIM, vocab_size=VOCABULARY, max_position_embeddings=2 * longest,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def of_full_attention(context: int, options: argparse.Namespace) -> list[str]:
    model = ringattn.parallelize(make_model(options.layers, context), ringattn.SequenceParallel())
    decoder = Decoder(model, reserve=options.rounds * options.new)
    for layer in range(options.layers):
        key, value = (torch.randn(1, KEY_HEADS, context, HEAD_DIM) for _ in range(2))
        decoder.cache.keep(layer, key, value, length=context, window=None)
    decoder.cache.length = context
    return [_time_of_token(decoder.step, options)]


def of_landmarks(search: str, keep: str, options: argparse.Namespace) -> list[str]:
    """Times after each context in turn: one text goes on."""
    longest = max(options.contexts)
    model = to_landmark(make_model(options.layers, longest), options.block).eval()
    tokens = torch.randint(VOCABULARY, (1, longest), generator=torch.Generator().manual_seed(0))
    times, done = [], 0
    with tempfile.TemporaryDirectory() as folder:
        config = RetrievalConfig(
            k=options.k, positions="stingy", search=search, keep=keep, folder=folder if keep == "file" else None
        )
        reading = RandomAccess(model, config, reserve=longest, quiet=True)
        for context in options.contexts:
            reading.read(tokens[:, done:context])
            times.append(_time_of_token(reading.step, options))
            # Those that were written stand in the text as well.
            done = min(context + options.rounds * options.new, longest)
        del reading
    return times


def _time_of_token(step: Callable[[torch.Tensor], torch.Tensor], options: argparse.Namespace) -> str:
    seconds, token = [], torch.zeros(1, dtype=torch.int64)
    for _ in range(options.rounds):
        start = time.process_time()
        for _ in range(options.new):
            token = step(token).argmax(-1)
        seconds.append((time.process_time() - start) / options.new)
    return f"{1e3 * min(seconds):.1f}"


def _options(words: Sequence[str] | None = None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        found = [int(word) for word in text.split(",")]
        if found != sorted(set(found)) or found[0] <= 0:
            raise argparse.ArgumentTypeError(f"ascending numbers above 0, with commas between, got {text}")
        return found

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=numbers, default=[4096, 16384, 65536, 262144])
    parser.add_argument("--search", type=lambda text: text.split(","), default=["exact"], help="exact,faiss:HNSW32 ...")
    parser.add_argument("--keep", type=lambda text: text.split(","), default=["cpu"], help="cpu,file,device")
    parser.add_argument("--k", type=int, default=4)
    parser.add_argument("--block", type=int, default=63)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--new", type=int, default=16, help="tokens written in a round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
