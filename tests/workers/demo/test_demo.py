"""The demonstration model: its scenes, its training data and what the checkpoint can do."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor

from workers import families
from workers.demo import evaluate, followups, formats, pairs, pool, scenes, texts, train
from workers.demo.dialogue import DialogueEncoder, DialogueTurn
from workers.demo.train import JOINT_STEPS, STEPS, VISION_STEPS, Trainer, learning_rate
from workers.families.base import Family
from workers.families.checkpoints import DEMO
from workers.settings import EngineSettings


@pytest.fixture(scope="module")
def model() -> Family:
    return families.load(EngineSettings(model="demo"))


CIRCLE_AND_STAR = scenes.Scene(
    96,
    96,
    (
        scenes.Shape("red", "circle", "small", 20, 48, 10),
        scenes.Shape("blue", "star", "large", 70, 50, 20),
    ),
    "white",
    "dotted",
)


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
    scene = CIRCLE_AND_STAR

    assert texts.caption(scene) == "a small red circle to the left of a large blue star"
    assert texts.detailed_caption(scene).startswith("This image shows two shapes on a dotted white")
    assert texts.ask_count(scene, rng)[1] == "two"
    assert dict([texts.ask_color(scene, rng) or ("", "")]).keys() <= {
        f"{word} color is the {kind}?" for word in ("What", "Which") for kind in ("circle", "star")
    }
    for name, (ask, _) in texts.QUESTIONS.items():
        assert ask(scene, rng) is not None, name


def test_which_of_two_shapes_is_where_is_asked_all_four_ways_in_training() -> None:
    asked = texts.ask_every_relation(CIRCLE_AND_STAR, random.Random(0))

    assert dict(asked) == {
        "Is the circle to the left of the star?": "yes",
        "Is the circle to the right of the star?": "no",
        "Is the star to the right of the circle?": "yes",
        "Is the star to the left of the circle?": "no",
    }
    assert texts.ask_relation(CIRCLE_AND_STAR, random.Random(1)) in asked


def _text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


SHOWN = {"type": "image"}
DIALOGUES = [
    [
        DialogueTurn("Describe the image.", "a small red star", pictures=1),
        DialogueTurn("How many?", "one"),
    ],
    [DialogueTurn("What changed?", "nothing changed", pictures=2)],
    [
        DialogueTurn("Describe the image.", "red star", pictures=1, is_learnt=False),
        DialogueTurn("Describe the image.", "blue cross", pictures=1),
    ],
]


@pytest.mark.parametrize("turns", DIALOGUES)
def test_what_training_reads_is_what_the_processor_makes(turns: list[DialogueTurn]) -> None:
    processor = AutoProcessor.from_pretrained(DEMO)
    encoder = DialogueEncoder(processor.tokenizer)
    images = [scenes.draw(scenes.sample(random.Random(n)), n) for n in range(2)]
    images = images[: sum(turn.pictures for turn in turns)]
    messages = []
    for turn in turns:
        content = [*[SHOWN] * turn.pictures, _text(turn.question)]
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [_text(turn.answer)]})
    prompt = processor.apply_chat_template(messages)

    [expected] = processor(images=[images], text=[prompt], return_tensors="pt").input_ids.tolist()
    ids, learnt = encoder.encode(turns)

    assert ids == expected[: len(ids)]
    assert processor.decode(expected[len(ids) :]) == "\n"
    said = [token for token, flag in zip(ids, learnt, strict=True) if flag]
    wanted = "".join(f" {turn.answer}<end_of_utterance>" for turn in turns if turn.is_learnt)
    assert processor.decode(said) == wanted


def test_every_change_of_a_scene_is_named_both_ways() -> None:
    rng, told = random.Random(6), set()
    for number in range(300):
        scene = scenes.sample(rng, canvas=scenes.CANVASES[number % 3])
        other = pairs.alter(scene, rng)

        assert all((s.color, s.kind) not in scenes.HELD_OUT for s in other.shapes)
        assert (pairs.what_changed(scene, other) == "nothing changed") == (scene == other)
        told |= {pairs.what_changed(scene, other), pairs.what_changed(other, scene)}

    ends = {" ".join(text.split()[-2:]) for text in told}
    assert {"nothing changed", "is gone"} <= ends
    assert any(text.endswith("appeared") for text in told)
    assert any(text.startswith("the background became") for text in told)
    assert any(f"became a {kind}" in text for text in told for kind in scenes.SHAPES)
    assert any(f"became {color}" in text for text in told for color in scenes.COLORS)


def test_which_image_has_something_is_asked_with_every_answer_and_never_of_held_out_pairs() -> None:
    rng = random.Random(8)
    asked = []
    for _ in range(400):
        first, second = scenes.sample(rng), scenes.sample(rng, combinations="held_out")
        question, answer = pairs.ask_which(first, second, rng)
        color, kind = question.removesuffix("?").split()[-2:]
        here, there = (
            any((s.color, s.kind) == (color, kind) for s in scene.shapes)
            for scene in (first, second)
        )

        assert (color, kind) not in scenes.HELD_OUT
        assert (
            answer
            == {
                (True, False): "the first",
                (False, True): "the second",
                (True, True): "both",
                (False, False): "neither",
            }[here, there]
        )
        asked.append(answer)

    assert min(asked.count("the first"), asked.count("the second")) > 80
    assert asked.count("neither") > 20


def test_a_second_turn_has_an_answer_that_is_true_of_its_scene() -> None:
    scene = CIRCLE_AND_STAR
    rng = random.Random(9)
    known = {
        ("And the star?", "blue"),
        ("And the star?", "large"),
        ("And the circle?", "red"),
        ("And the circle?", "small"),
    }

    assert {followups.ask_and(scene, rng)[1] for _ in range(60)} == known  # type: ignore[index]
    for _ in range(60):
        first, second = followups.ask_it(scene, rng) or []
        shape = scene.shapes[any(word in first[0] + first[1] for word in ("star", "blue"))]
        assert second[1] in (shape.color, shape.kind, shape.size)


def test_held_out_formats_combine_parts_that_training_shows() -> None:
    scene = scenes.sample(random.Random(1), shapes=2)
    written = {form.write(scene) for form in formats.ALL}

    assert (
        len(written)
        == len(formats.ALL)
        == len(formats.TRAINED_FORMATS) + len(formats.HELD_OUT_FORMATS)
    )
    for part in ("entry", "separator", "beginning"):
        values = {getattr(form, part) for form in formats.TRAINED_FORMATS}
        assert values == {getattr(form, part) for form in formats.ALL}


def test_no_scene_that_is_evaluated_was_shown_in_training() -> None:
    sampled = {evaluate.SceneSampler(1).scene().key for _ in range(30)}

    assert len(evaluate.trained()) > 50_000
    assert not sampled & evaluate.trained()
    assert scenes.sample(random.Random(0), canvas=scenes.CANVASES[0]).key in evaluate.trained()


def test_every_patch_is_labelled_with_the_shape_that_covers_it() -> None:
    shape = scenes.Shape("green", "square", "large", 48, 24, 20)
    scene = scenes.Scene(96, 72, (shape,), "pink", "plain")

    things, centres = pool.patch_labels(scene)

    color = list(scenes.COLORS).index("green") + 1
    inside = things[:, 0] == color
    assert things.shape == (12 * 9, 3)
    assert 0 < inside.sum() < 30
    assert np.allclose(centres[inside], (2 * 48 / 96 - 1, 2 * 24 / 72 - 1))


def test_training_goes_on_exactly_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in {"ALTERED": 1, "PAIRS": 1, "SECOND_TURNS": 1, "SOLVED": 1, "BATCH": 6}.items():
        monkeypatch.setattr(train, name, few)
    pools = pool.render(3, seed=1, processes=1)
    for last in (VISION_STEPS - 1, VISION_STEPS + JOINT_STEPS - 1):
        straight, stopped, resumed = (Trainer(3, pools) for _ in range(3))
        for trainer in (straight, stopped, resumed):
            trainer.step = last  # of one part, and then the first of the next
        straight.run_step()
        straight.run_step()

        stopped.run_step()
        stopped.save_state(tmp_path / "state.pt")
        resumed.load_state(tmp_path / "state.pt")
        resumed.run_step()

        assert resumed.step == straight.step == last + 2
        weights = zip(straight.master.parameters(), resumed.master.parameters(), strict=True)
        assert all(bool((one == other).all()) for one, other in weights)


def test_the_learning_rate_warms_up_and_falls_in_every_part() -> None:
    rates = [learning_rate(step) for step in range(STEPS)]
    starts = [0, VISION_STEPS, VISION_STEPS + JOINT_STEPS, STEPS]

    for start, end in itertools.pairwise(starts):
        assert rates[start] < rates[start + 200] > rates[end - 1] > 0


#: What each figure of the model card is at least; n = 1,000 there, 48 here, hence the slack.
CLAIMED = {
    "caption": 0.92,
    "detailed_caption": 0.9,
    "classify": 0.97,
    "classify_ranked": 0.97,
    "background_ranked": 0.97,
    **{f"vqa_{name}": 0.92 for name in texts.QUESTIONS},
    **{f"two_{name}": 0.8 for name in (*pairs.PAIR_QUESTIONS, "changed")},
    "example_format": 0.9,
    **{f"turn_{name}": 0.85 for name in followups.FOLLOW_UPS},
}
SLACK = 0.12


@pytest.mark.parametrize("name", list(CLAIMED))
def test_the_checkpoint_reaches_the_figures_of_its_model_card(model: Family, name: str) -> None:
    cases = evaluate.SceneSampler(41).cases(48, evaluate.FIGURES[name])

    assert evaluate.share(evaluate.answers(model, cases), cases) >= CLAIMED[name] - SLACK


def test_the_checkpoint_names_pairs_that_training_held_out(model: Family) -> None:
    cases = evaluate.SceneSampler(42, "held_out").cases(48, evaluate.FIGURES["caption"])

    assert evaluate.share(evaluate.answers(model, cases), cases) >= 0.78 - SLACK


def test_the_answers_of_the_checkpoint_depend_on_the_image(model: Family) -> None:
    cases = evaluate.SceneSampler(43).cases(32, evaluate.FIGURES["caption"])
    swapped = list(evaluate.with_wrong_pictures(cases))

    assert evaluate.share(evaluate.answers(model, swapped), swapped) <= 0.1


def test_the_checkpoint_is_small_and_readable_by_everybody() -> None:
    weights = DEMO / "model.safetensors"

    assert weights.stat().st_size <= 8_000_000
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in DEMO.iterdir())
