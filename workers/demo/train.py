"""Train the demonstration model from scratch: `make train-demo`, two to three hours on two cores.

Longer than 300 lines because the trainer is read from top to bottom, as it runs.

    1. vision alone     every patch says what it shows and where (pool.py), 2,500 steps
    2. vision and text  captions, questions, pairs of pictures, second turns and solved examples,
                        the patches still a small part of the loss, 8,000 steps
    3. places           the same, and of every scene of two shapes which is where, 2,000 steps

Weights are kept in float32 and computed with in bfloat16. The state is saved every
`SAVE_STEPS`, and the same command goes on where it stopped; a seed gives one result per machine.
"""

import argparse
import copy
import itertools
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Idefics2ForConditionalGeneration

from workers.demo import followups, formats, pairs, texts
from workers.demo.build import PATCH, VISION_WIDTH, make_model, make_processor
from workers.demo.dialogue import DialogueEncoder, DialogueTurn
from workers.demo.pool import CANVAS_SHARES, IGNORED, Pool, render
from workers.demo.scenes import BACKGROUNDS, COLORS, PATTERNS, SHAPES, SIZES, Scene
from workers.demo.texts import QuestionAnswer

POOL_SCENES = 60_000
BATCH = 32
VISION_STEPS = 2_500
JOINT_STEPS = 8_000
PLACES_STEPS = 2_000
STEPS = VISION_STEPS + JOINT_STEPS + PLACES_STEPS
LEARNING_RATE = 1.3e-3
#: Steps of each part, and what share of the learning rate it begins and ends with.
PARTS = ((VISION_STEPS, 1.0, 0.2), (JOINT_STEPS, 1.0, 0.01), (PLACES_STEPS, 0.6, 0.01))
WARM_UP_STEPS = 120
SAVE_STEPS = 250
REPORT_STEPS = 50
#: Sizes of the patch heads: colour, shape, size (0 is background), x and y, ground, pattern.
HEADS = (len(COLORS) + 1, len(SHAPES) + 1, len(SIZES) + 1, 2, len(BACKGROUNDS), len(PATTERNS))
#: Shapes per scene early and late: one shape first, so that names are learnt before order.
EARLY_COUNTS, LATE_COUNTS, PLACES_COUNTS = (0.6, 0.3, 0.1), (0.25, 0.4, 0.35), (0.2, 0.55, 0.25)
EARLY_SHARE = 0.12
#: Of a batch: altered pictures, questions about any two, second turns, solved examples.
ALTERED, PAIRS, SECOND_TURNS, SOLVED = 6, 8, 9, 9
#: Dialogues are padded in groups of similar length, cut at these shares of them.
CUTS = (0.5, 0.75)


@dataclass
class Trainer:
    """The model in bfloat16, its float32 master, and everything a step needs."""

    seed: int
    pools: list[Pool]
    step: int = 0
    rng: random.Random = field(init=False)
    metrics: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.processor = make_processor()
        self.tokenizer = self.processor.tokenizer
        self.encoder = DialogueEncoder(self.tokenizer)
        self.master = make_model(self.tokenizer, self.seed)
        self.master_heads = torch.nn.Linear(VISION_WIDTH, sum(HEADS))
        self.model = copy.deepcopy(self.master).to(torch.bfloat16).train()
        # The backward pass of fused attention was a third of a step on the CPU.
        self.model.set_attn_implementation("eager")
        self.heads = copy.deepcopy(self.master_heads).to(torch.bfloat16)
        self.masters = [*self.master.parameters(), *self.master_heads.parameters()]
        self.copies = [*self.model.parameters(), *self.heads.parameters()]
        names = [name for name, _ in self.master.named_parameters()] + ["heads", "heads"]
        decayed = {
            index
            for index, (name, weight) in enumerate(zip(names, self.masters, strict=True))
            if weight.dim() == 2 and "embed" not in name and "latents" not in name
        }
        groups = [
            {"params": [self.masters[i] for i in sorted(decayed)], "weight_decay": 0.05},
            {
                "params": [w for i, w in enumerate(self.masters) if i not in decayed],
                "weight_decay": 0.0,
            },
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)

    # ---- one step -------------------------------------------------------------------

    def run_step(self) -> None:
        """Advance by one batch."""
        joint = self.step >= VISION_STEPS
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step)
        pool = self.rng.choices(self.pools, CANVAS_SHARES)[0]
        chosen = self._choose(pool)
        pixels = torch.from_numpy(pool.images[chosen]).permute(0, 3, 1, 2) / 127.5 - 1
        mask = torch.ones(
            len(chosen), pixels.shape[2] // PATCH, pixels.shape[3] // PATCH, dtype=torch.bool
        )
        vision = self.model.model.vision_model(
            pixel_values=pixels.to(torch.bfloat16), patch_attention_mask=mask
        ).last_hidden_state
        loss = self._patch_loss(vision, pool, chosen)
        if joint:
            latents = self.model.model.connector(vision, attention_mask=mask.flatten(1))
            share = 0.5 if self._joint_progress() < 0.5 else 0.15
            loss = share * loss + self._text_loss(latents, [pool.scenes[i] for i in chosen])
        loss.backward()
        self._update()
        self.step += 1

    def _joint_progress(self) -> float:
        return (self.step - VISION_STEPS) / JOINT_STEPS

    @property
    def _is_about_places(self) -> bool:
        return self.step >= VISION_STEPS + JOINT_STEPS

    def _choose(self, pool: Pool) -> list[int]:
        """Scenes and, at the end, altered ones, each behind the one it was made from."""
        if self._is_about_places:
            counts = PLACES_COUNTS
        else:
            counts = EARLY_COUNTS if self._joint_progress() < EARLY_SHARE else LATE_COUNTS
        numbers = self.rng.choices((1, 2, 3), counts, k=BATCH - 2 * ALTERED)
        chosen = [self.rng.choice(pool.by_count[n]) for n in numbers]
        for index in self.rng.choices(pool.altered, k=ALTERED):
            chosen += [index, index + 1]
        return chosen

    def _patch_loss(self, vision: torch.Tensor, pool: Pool, chosen: list[int]) -> torch.Tensor:
        things = torch.from_numpy(pool.things[chosen]).long().flatten(0, 1)
        centres = torch.from_numpy(pool.centres[chosen]).flatten(0, 1)
        patches = vision.shape[1]
        ground, pattern = (
            torch.from_numpy(pool.grounds[chosen]).long().repeat_interleave(patches, 0).unbind(1)
        )
        outputs = self.heads(vision).float().flatten(0, 1).split(HEADS, -1)
        color, kind, size, place, ground_out, pattern_out = outputs
        front = (things[:, 1] > 0) & (things[:, 1] != IGNORED)
        back = things[:, 1] == 0
        error = (place - centres).abs()
        self.metrics["shape"] = float((kind[front].argmax(-1) == things[front, 1]).float().mean())
        self.metrics["place"] = float(error[front].detach().mean())
        self.metrics["pattern"] = float(
            (pattern_out[back].argmax(-1) == pattern[back]).float().mean()
        )
        entropy = F.cross_entropy
        return (
            entropy(color[front], things[front, 0])
            + 2 * entropy(kind[front], things[front, 1])
            + entropy(size[front], things[front, 2])
            + entropy(color[back], things[back, 0])
            + 4 * error[front].mean()
            + 2 * error[back].mean()
            + 0.3 * entropy(ground_out[back], ground[back])
            + 0.3 * entropy(pattern_out[back], pattern[back])
        )

    def _text_loss(self, latents: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
        dialogues = sorted(
            ((shown, *self.encoder.encode(turns)) for shown, turns in self._dialogues(scenes)),
            key=lambda dialogue: len(dialogue[1]),
        )
        learnt = sum(sum(flags) for _, _, flags in dialogues)
        cuts = [0, *(int(len(dialogues) * share) for share in CUTS), len(dialogues)]
        loss, hits = torch.zeros(()), 0
        for start, end in itertools.pairwise(cuts):
            ids, wanted, pictures = self._pad(dialogues[start:end])
            text = self.model.model.text_model
            embedded = text.embed_tokens(ids)
            image = (ids == self.model.config.image_token_id)[..., None].expand_as(embedded)
            embedded = embedded.masked_scatter(image, latents[pictures])
            hidden = text(inputs_embeds=embedded, use_cache=False).last_hidden_state
            row, column = wanted[:, 1:].nonzero(as_tuple=True)
            logits = self.model.lm_head(hidden[row, column]).float()
            target = ids[row, column + 1]
            loss = loss + F.cross_entropy(logits, target, reduction="sum") / learnt
            hits += int((logits.argmax(-1) == target).sum())
        self.metrics["tokens"] = hits / learnt
        self.metrics["text"] = float(loss.detach())
        return loss

    def _dialogues(self, scenes: list[Scene]) -> Iterator[tuple[list[int], list[DialogueTurn]]]:
        """Make the dialogues of a batch: the pictures of each, and its turns."""
        rng, sampled = self.rng, len(scenes) - 2 * ALTERED
        for index, scene in enumerate(scenes[:sampled]):
            for asked in self._about_one(scene):
                yield [index], [DialogueTurn(*asked, pictures=1)]
        for first in range(sampled, len(scenes), 2):
            for shown in ([first, first + 1], [first + 1, first]):
                yield (
                    shown,
                    [DialogueTurn(*pairs.ask_changed(*_of(scenes, shown), rng), pictures=2)],
                )
        for _ in range(PAIRS):
            shown = rng.sample(range(len(scenes)), 2)
            about_two = texts.drawn(pairs.PAIR_QUESTIONS, rng, *_of(scenes, shown))
            yield shown, [DialogueTurn(*about_two, pictures=2)]
        for index in rng.sample(range(sampled), SECOND_TURNS):
            first_turn, second_turn = texts.drawn(followups.FOLLOW_UPS, rng, scenes[index])
            yield [index], [DialogueTurn(*first_turn, pictures=1), DialogueTurn(*second_turn)]
        for _ in range(SOLVED):
            yield self._solved(scenes[:sampled])

    def _about_one(self, scene: Scene) -> Iterator[QuestionAnswer]:
        describe = texts.ask_detailed_caption if self.rng.random() < 0.3 else texts.ask_caption
        yield describe(scene, self.rng)
        for _ in range(2):
            yield texts.ask_anything(scene, self.rng)
        if self._is_about_places:
            yield from texts.ask_every_relation(scene, self.rng)
            for ask in (texts.ask_where, texts.ask_what_is):
                if asked := ask(scene, self.rng):
                    yield asked

    def _solved(self, scenes: list[Scene]) -> tuple[list[int], list[DialogueTurn]]:
        """One or two solved examples, then the same question about another picture."""
        rng = self.rng
        shown = rng.sample(range(len(scenes)), rng.choices((2, 3), (3, 1))[0])
        question = rng.choice(texts.CAPTION_PROMPTS)
        kind = rng.random()
        if kind < 0.2:
            answers = [texts.caption(scenes[index]) for index in shown]
        elif kind < 0.35:
            question = "What color is the background?"
            answers = [scenes[index].background for index in shown]
        else:
            # One shape alone does not show what stands between two.
            several = [
                index
                for index, scene in enumerate(scenes)
                if len(scene.shapes) > 1 and index not in shown[1:]
            ]
            shown[0] = rng.choice(several or shown[:1])
            form = rng.choice(formats.TRAINED_FORMATS)
            answers = [form.write(scenes[index]) for index in shown]
        turns = [
            DialogueTurn(question, answer, pictures=1, is_learnt=index == len(answers) - 1)
            for index, answer in enumerate(answers)
        ]
        return shown, turns

    def _pad(
        self, group: list[tuple[list[int], list[int], list[bool]]]
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        longest = -(-max(len(ids) for _, ids, _ in group) // 8) * 8
        padded = torch.full((len(group), longest), self.tokenizer.pad_token_id)
        wanted = torch.zeros((len(group), longest), dtype=torch.bool)
        for row, (_, ids, flags) in enumerate(group):
            padded[row, : len(ids)] = torch.tensor(ids)
            wanted[row, : len(flags)] = torch.tensor(flags)
        return padded, wanted, [index for shown, _, _ in group for index in shown]

    def _update(self) -> None:
        for copied, weight in zip(self.copies, self.masters, strict=True):
            weight.grad = None if copied.grad is None else copied.grad.float()
            copied.grad = None
        torch.nn.utils.clip_grad_norm_([w for w in self.masters if w.grad is not None], 1.0)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.masters)

    # ---- state ----------------------------------------------------------------------

    def save_state(self, path: Path) -> None:
        """Write everything the next step depends on; a crash leaves the old file whole."""
        state = {
            "step": self.step,
            "rng": self.rng.getstate(),
            "model": self.master.state_dict(),
            "heads": self.master_heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load_state(self, path: Path) -> None:
        """Resume from a saved state."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.step = state["step"]
        version, internal, gauss = state["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.master.load_state_dict(state["model"])
        self.master_heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            torch._foreach_copy_(self.copies, self.masters)

    def save_checkpoint(self, folder: Path) -> None:
        """Write model (safetensors, float16) and processor as any transformers checkpoint."""
        half: Idefics2ForConditionalGeneration = copy.deepcopy(self.master).half().eval()
        half.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        for file in folder.iterdir():
            file.chmod(0o644)


def _of(scenes: Sequence[Scene], shown: Sequence[int]) -> tuple[Scene, Scene]:
    first, second = (scenes[index] for index in shown)
    return first, second


def learning_rate(step: int) -> float:
    """Warm-up, then a cosine down, once for each of the three parts."""
    done = step
    for total, peak, floor in PARTS:
        if done < total:
            fall = floor + (1 - floor) * (1 + math.cos(math.pi * done / total)) / 2
            return LEARNING_RATE * peak * min(1.0, (done + 10) / WARM_UP_STEPS) * fall
        done -= total
    raise ValueError(f"training has {STEPS} steps, and {step} is none of them")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--state", type=Path, default=Path("build/train-demo"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.state.mkdir(parents=True, exist_ok=True)
    state = arguments.state / "state.pt"
    trainer = Trainer(arguments.seed, render(POOL_SCENES, arguments.seed))
    if state.exists():
        trainer.load_state(state)
    started, first = time.monotonic(), trainer.step
    while trainer.step < STEPS:
        trainer.run_step()
        if trainer.step % REPORT_STEPS == 0:
            pace = (time.monotonic() - started) / (trainer.step - first)
            shown = " ".join(f"{name} {value:.3f}" for name, value in trainer.metrics.items())
            print(f"step {trainer.step} {pace:.3f} s/step {shown}", flush=True)
        if trainer.step % SAVE_STEPS == 0:
            trainer.save_state(state)
    trainer.save_checkpoint(arguments.out)


if __name__ == "__main__":
    main()
