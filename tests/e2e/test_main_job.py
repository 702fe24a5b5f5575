"""Images in, captions out, through every layer, with real processes."""

import json
import random
from pathlib import Path

import httpx2

from idefiq import Result
from idefiq.up import Stack
from tests import pictures
from tests.e2e.conftest import Env, Start
from tests.servers import PATIENCE_SECONDS, wait_until
from workers.demo import scenes, texts


def draw(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Scenes as files: path → true caption."""
    rng, truth = random.Random(seed), {}
    for number in range(count):
        scene = scenes.sample(rng, canvas=scenes.CANVASES[number % 3])
        path = folder / f"{number}.png"
        path.write_bytes(scenes.encode(scene, number))
        truth[str(path)] = texts.caption(scene)
    return truth


def test_images_go_in_and_true_captions_come_out(
    surroundings: Env, start: Start, tmp_path: Path
) -> None:
    truth = draw(tmp_path, 12, seed=77)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    paths = [*truth, str(bad)]

    with start("demo", surroundings) as (stack, client):
        images = client.upload(paths)
        items = [{"images": [i], "custom_id": p} for i, p in zip(images, paths, strict=True)]
        items.append({"images": ["http://127.0.0.1:1/private.png"], "custom_id": "private"})
        job = client.wait(client.submit(items), seconds=PATIENCE_SECONDS)
        found = {result.custom_id: result for result in client.results(job)}
        stored = _results_file(stack, job.id)

    assert job.state == "finished_with_errors"
    assert (job.counts.succeeded, job.counts.failed) == (12, 2)
    right = [found[path].answer == caption for path, caption in truth.items()]
    assert sum(right) >= 10
    assert [result.images for result in _in_order(found)][:12] == [[image] for image in images[:12]]
    assert found[str(bad)].error_code == "image_unreadable"
    assert found["private"].error_code == "image_forbidden"
    assert [line["custom_id"] for line in stored] == [*paths, "private"]
    assert [line["answer"] for line in stored] == [result.detail for result in _in_order(found)]


def _in_order(found: dict[str | None, Result]) -> list[Result]:
    return sorted(found.values(), key=lambda result: result.index)


def _results_file(stack: Stack, job_id: str) -> list[dict[str, object]]:
    key = {"Authorization": f"Bearer {stack.api_key}"}
    with httpx2.Client(base_url=stack.url, headers=key) as http:

        def written() -> str | None:
            path: str | None = http.get(f"/v1/jobs/{job_id}").json()["results_file_url"]
            return path

        wait_until(lambda: written() is not None, what="the results file")
        return [json.loads(line) for line in http.get(str(written())).text.splitlines()]


def test_captions_and_questions_share_a_job(start: Start, embedded: Env, tmp_path: Path) -> None:
    [path] = draw(tmp_path, 1, seed=5)

    with start("demo", embedded) as (_, client):
        [image] = client.upload([path])
        job = client.submit(
            [
                {"images": [image]},
                {"images": [image], "kind": "vqa", "question": "How many shapes are there?"},
                {"images": [image], "prompt": "Describe the image in detail."},
            ],
            model="demo",
        )
        results = list(client.results(client.wait(job, seconds=PATIENCE_SECONDS)))
        models = client.models()

    said = {result.index: result for result in results}
    assert said[1].answer in ("one", "two", "three")
    assert str(said[2].answer).startswith("This image shows")
    assert [r.detail["template"] for r in _in_order(dict(enumerate(results))) if r.detail] == [  # type: ignore[arg-type]
        "caption/1",
        "vqa/1",
        "caption-prompt/1",
    ]
    assert [(model.name, model.ready, model.family) for model in models] == [
        ("demo", True, "idefics2")
    ]


def test_a_streamed_job_of_thousands_is_imported_and_answered(
    surroundings: Env, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "red.png"
    path.write_bytes(pictures.plain())

    with start("echo", surroundings, batch_items="64") as (_, client):
        [image] = client.upload([path])
        job = client.submit(
            ({"images": [image], "custom_id": str(n)} for n in range(5_000)), name="stream"
        )
        job = client.wait(job, seconds=PATIENCE_SECONDS)
        found = [result.index for result in client.results(job)]

    assert (job.state, job.counts.succeeded) == ("succeeded", 5_000)
    assert sorted(found) == list(range(5_000))
