"""The demonstration model: its scenes, its training data and what the checkpoint can do."""

import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor

from workers import families
from workers.demo import evaluate, pool, scenes, texts
from workers.demo.dialogue import DialogueEncoder
from workers.demo.train import JOINT_STEPS, VISION_STEPS, Trainer, learning_rate
from workers.families.base import Family
from workers.families.checkpoints import DEMO
from workers.settings import EngineSettings


@pytest.fixture(scope="module")
def model() -> Family:
    return families.load(EngineSettings(model="demo"))


def test_the_same_seed_draws_the_same_scene() -> None:
    first, again = (scenes.sample(random.Random(3)) for _ in range(2))

    assert first == again
    assert scenes.encode(first, 9) == scenes.encode(again, 9)
    assert scenes.encode(first, 9) != scenes.encode(first, 10)


def test_training_never_shows_a_held_out_pair() -> None:
    rng = random.Random(1)
    shown = {(s.color, s.kind) for _ in range(500) for s in scenes.sample(rng).shapes}
    held = [scenes.sample(rng, combinations="held_out") for _ in range(50)]

    assert not shown & scenes.HELD_OUT
    assert all({(s.color, s.kind) for s in scene.shapes} & scenes.HELD_OUT for scene in held)


def test_shapes_stay_inside_the_canvas_and_apart() -> None:
    rng = random.Random(2)
    for number in range(200):
        scene = scenes.sample(rng, canvas=scenes.CANVASES[number % 3])

        for shape in scene.shapes:
            assert 0 < shape.x < scene.width
            assert 0 < shape.y < scene.height


def test_every_question_type_has_an_answer_that_is_true_of_its_scene() -> None:
    rng = random.Random(4)
    scene = scenes.Scene(
        96,
        96,
        (
            scenes.Shape("red", "circle", "small", 20, 48, 10),
            scenes.Shape("blue", "star", "large", 70, 50, 20),
        ),
        "white",
        "dotted",
    )

    assert texts.caption(scene) == "a small red circle to the left of a large blue star"
    assert texts.detailed_caption(scene).startswith("This image shows two shapes on a dotted white")
    assert texts.ask_count(scene, rng)[1] == "two"
    assert dict([texts.ask_color(scene, rng) or ("", "")]).keys() <= {
        f"{word} color is the {kind}?" for word in ("What", "Which") for kind in ("circle", "star")
    }
    for name, (ask, _) in texts.QUESTIONS.items():
        assert ask(scene, rng) is not None, name


def test_what_training_reads_is_what_the_processor_makes() -> None:
    processor = AutoProcessor.from_pretrained(DEMO)
    encoder = DialogueEncoder(processor.tokenizer)
    image = scenes.draw(scenes.sample(random.Random(1)), 1)
    messages = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "a small red star"}]},
        {"role": "user", "content": [{"type": "text", "text": "How many?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "one"}]},
    ]
    prompt = processor.apply_chat_template(messages)

    [expected] = processor(images=[[image]], text=[prompt], return_tensors="pt").input_ids.tolist()
    ids, learnt = encoder.encode(
        [("Describe the image.", "a small red star"), ("How many?", "one")]
    )

    assert ids == expected[: len(ids)]
    assert processor.decode(expected[len(ids) :]) == "\n"
    said = [token for token, flag in zip(ids, learnt, strict=True) if flag]
    assert processor.decode(said) == " a small red star<end_of_utterance> one<end_of_utterance>"


def test_every_patch_is_labelled_with_the_shape_that_covers_it() -> None:
    shape = scenes.Shape("green", "square", "large", 48, 24, 20)
    scene = scenes.Scene(96, 72, (shape,), "pink", "plain")

    things, centres = pool.patch_labels(scene)

    color = list(scenes.COLORS).index("green") + 1
    inside = things[:, 0] == color
    assert things.shape == (12 * 9, 3)
    assert 0 < inside.sum() < 30
    assert np.allclose(centres[inside], (2 * 48 / 96 - 1, 2 * 24 / 72 - 1))


def test_training_goes_on_exactly_where_it_was_stopped(tmp_path: Path) -> None:
    pools = pool.render(3, seed=1, processes=1)
    straight, stopped, resumed = (Trainer(3, pools) for _ in range(3))
    for trainer in (straight, stopped, resumed):
        trainer.step = VISION_STEPS - 1  # a step of each part
    straight.run_step()
    straight.run_step()

    stopped.run_step()
    stopped.save_state(tmp_path / "state.pt")
    resumed.load_state(tmp_path / "state.pt")
    resumed.run_step()

    assert resumed.step == straight.step == VISION_STEPS + 1
    weights = zip(straight.master.parameters(), resumed.master.parameters(), strict=True)
    assert all(bool((one == other).all()) for one, other in weights)


def test_the_learning_rate_warms_up_and_falls_in_both_parts() -> None:
    rates = [learning_rate(step) for step in range(VISION_STEPS + JOINT_STEPS)]

    assert rates[0] < rates[200] > rates[VISION_STEPS - 1]
    assert rates[VISION_STEPS] < rates[VISION_STEPS + 200] > rates[-1] > 0


def test_the_checkpoint_captions_scenes_that_it_never_saw(model: Family) -> None:
    assert evaluate.exact(model, evaluate.ask(96, 41, "caption")) >= 0.75


@pytest.mark.parametrize("kind", sorted(texts.QUESTIONS))
def test_the_checkpoint_answers_every_type_of_question_it_claims(model: Family, kind: str) -> None:
    assert evaluate.exact(model, evaluate.ask(32, 42, kind)) >= 0.75


def test_the_checkpoint_looks_at_the_picture(model: Family) -> None:
    questions = evaluate.ask(32, 43, "caption")
    swapped = [(questions[n - 1][0], *questions[n][1:]) for n in range(32)]

    assert evaluate.exact(model, swapped) <= 0.1


def test_the_checkpoint_is_small_and_readable_by_everybody() -> None:
    weights = DEMO / "model.safetensors"

    assert weights.stat().st_size <= 8_000_000
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in DEMO.iterdir())
